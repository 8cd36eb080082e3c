#pragma once

#include "io/loader.h"
#include "launch/config.h"

namespace lockstep::launch {

/// The rows of a run. A mixture's sources follow one another, for training and for validation.
struct RunData {
  std::unique_ptr<io::Dataset> train, validation;  ///< validation may be absent
  std::vector<io::MixtureSource> mixture;          ///< empty: one source
};

/// Opens what [data] names. Resolve the size of a gpt first: its length is that of a row. `checked`: what io::validate_file()
/// returned. Collective.
RunData open_data(const Config&, Group&, const io::CheckedFiles& checked = {});

/// The files that [data] names, without those of a pattern that matches nothing.
std::vector<std::string> data_files(const Config&);

/// Fills in data.shuffle and data.window where they are left to the data, so that the configuration says all about the order.
/// Collective: ranks that would read in different orders are an Error (diverged).
void resolve_order(Config&, const RunData&, Group&);
/// How the loader orders rows; the caller adds this rank's lanes.
io::LoaderOptions loader_options(const Config&, const RunData&);

/// A word for how the rows are stored, which decides the order of Shuffle::window; "" for other orders.
std::string layout_text(const Config&, const io::Dataset&);

}  // namespace lockstep::launch
