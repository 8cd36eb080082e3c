#pragma once

#include <cstdint>
#include <string>

#include "io/convert.h"

namespace lockstep::io {

struct RechunkOptions {
  std::string path = {};
  std::int64_t rows = 0;     ///< of a chunk; 0: about 256 KiB
  bool contiguous = false;   ///< no chunks at all: fastest to read by rows, but no compression and no Fletcher32
  std::string dataset = {};  ///< only this one; empty: all with numbers
};
/// Writes a file again with other chunks (and compression: ConvertOptions::deflate), with its manifest; values, types,
/// attributes, groups and links stay. convert.out may be the file itself: it is replaced by one rename when the new one is
/// complete. Reads whatever the library reads: virtual, external and old storage becomes plain. Attributes that refer to objects
/// are left out and named in the text that is returned. Errors as of every conversion.
std::string rechunk_file(const RechunkOptions&, const ConvertOptions& convert);

namespace hdf5 {
/// The copy behind it, into a new file `to`; fills `report`.
void rewrite(const std::string& from, const std::string& to, const RechunkOptions&, const ConvertOptions&, std::string& report);
}  // namespace hdf5

}  // namespace lockstep::io
