#pragma once

#include <optional>
#include <string>

#include "io/checkpoint.h"
#include "launch/config.h"
#include "launch/session.h"

namespace lockstep::launch {

/// Makes `folder`/`name`, the folder of a run, and returns its path. One that holds metrics is only used again to resume: a new
/// run becomes `name`-2, `name`-3, … Collective; rank 0 looks at the file system.
std::string open_run_folder(const Config::Run&, bool resume, Group&);

/// The newest good checkpoint of the run, if it has one. Collective.
std::optional<io::FoundCheckpoint> find_checkpoint(const Config::Run&, Group&);

/// Puts text into a file of the run folder. Throws (Exit::io).
void write_file(const std::string& path, const std::string& text);

/// Hosts, devices, threads, versions, Slurm variables and the peak that `mfu` refers to, as JSON. Collective.
std::string environment_json(const Session&, double peak_flops, const std::string& peak_text);

/// The configuration that a run was made with. Throws (Exit::bad_data) when `run` is no run folder.
Config read_run_config(const std::string& run);

}  // namespace lockstep::launch
