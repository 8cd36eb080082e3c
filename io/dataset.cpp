#include "io/dataset.h"

namespace lockstep::io {

const char* name_of(DataKind kind) {
  switch (kind) {
    case DataKind::tokens: return "tokens";
    case DataKind::images: return "images";
    case DataKind::table: return "table";
    default: return "automatic";
  }
}

}  // namespace lockstep::io
