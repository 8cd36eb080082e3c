#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <new>
#include <optional>
#include <set>

#include "core/checksum.h"
#include "io/convert.h"
#include "io/image_file.h"
#include "io/image_writer.h"
#include "io/order.h"
#include "io/parts.h"
#include "io/pool.h"

namespace lockstep::io {

namespace fs = std::filesystem;

namespace {

struct Picture {
  std::string path;
  std::int32_t label = 0;
  bool held_out = false;
  std::int64_t height = 0, width = 0, channels = 0;
  std::string problem = {};  ///< why it cannot be read
  std::string checksum = {};
};

/// The pictures below a folder and their classes.
struct Folder {
  std::vector<std::string> classes;
  std::vector<Picture> pictures;
  std::int64_t other_files = 0;
  std::string other_file = {}, other_part = {};  ///< examples of what was left out
};

const char* const held_out_names[] = {"validation", "val", "valid", "dev", "test"};

/// Sorted by their bytes; hidden ones left out.
std::vector<std::string> entries(const std::string& folder, bool folders) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(".") && (folders ? entry.is_directory() : entry.is_regular_file())) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool is_picture(const fs::path& path) {
  std::string ending = path.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return char(std::tolower(c)); });
  return ending == ".png" || ending == ".jpg" || ending == ".jpeg";
}

/// Everything below the folder of one class, in the order of the names.
void add_class(Folder& found, const std::string& folder, std::int32_t label, bool held_out) {
  for (const auto& name : entries(folder, false)) {
    const std::string path = folder + "/" + name;
    if (is_picture(name))
      found.pictures.push_back({path, label, held_out});
    else if (found.other_files++ == 0)
      found.other_file = path;
  }
  for (const auto& name : entries(folder, true))
    if (!fs::is_symlink(folder + "/" + name)) add_class(found, folder + "/" + name, label, held_out);
}

void add_part(Folder& found, const std::string& folder, bool held_out) {
  for (const auto& name : entries(folder, true)) {
    const auto at = std::find(found.classes.begin(), found.classes.end(), name);
    require(Exit::bad_data, at != found.classes.end(), "{}/{}: there is no such class among the training pictures", folder, name);
    add_class(found, folder + "/" + name, std::int32_t(at - found.classes.begin()), held_out);
  }
}

/// folder/train beside nothing but held-out parts is a split; otherwise each folder is a class, one called "train" too.
Folder look(const std::string& folder, double share) {
  require(Exit::bad_data, fs::is_directory(folder), "{}: no such folder", folder);
  Folder found;
  const auto names = entries(folder, true);
  const bool split = std::find(names.begin(), names.end(), "train") != names.end() && !entries(folder + "/train", true).empty() &&
                     std::all_of(names.begin(), names.end(), [](const std::string& name) {
                       return name == "train" ||
                              std::find(std::begin(held_out_names), std::end(held_out_names), name) != std::end(held_out_names);
                     });
  const std::string training = split ? folder + "/train" : folder;
  found.classes = entries(training, true);
  require(Exit::bad_data, found.classes.size() >= 2,
          "{}: {} folder{} in it; a folder for each class is needed, or train and validation with a folder for each class",
          training, found.classes.size(), found.classes.size() == 1 ? "" : "s");
  add_part(found, training, false);
  if (split) {
    bool taken = false;
    for (const char* name : held_out_names) {
      if (std::find(names.begin(), names.end(), name) == names.end()) continue;
      if (taken) {
        found.other_part = folder + "/" + name;
        break;
      }
      require(Exit::usage, share == 0, "data images: either {}/{} or a share of the training pictures is held out", folder, name);
      add_part(found, folder + "/" + name, true);
      taken = true;
    }
  }
  return found;
}

/// Reads the headers, or all pixels when unreadable files are to be left out, and notes what is wrong.
void read_headers(std::vector<Picture>& pictures, bool pixels, Pool& pool, const ConvertOptions& options) {
  constexpr std::int64_t block = 256;
  const auto n = std::int64_t(pictures.size());
  for (std::int64_t first = 0; first < n; first += block) {
    pool.each(std::min(block, n - first), [&](std::int64_t i) {
      Picture& picture = pictures[std::size_t(first + i)];
      try {
        const Image image = pixels ? decode_image(read_bytes(picture.path), picture.path, 0) : image_header(picture.path);
        picture.height = image.height, picture.width = image.width, picture.channels = image.channels;
      } catch (const std::bad_alloc&) {
        picture.problem = picture.path + ": it needs more memory than there is";
      } catch (const Error& e) {
        if (e.exit() != Exit::bad_data) throw;
        picture.problem = e.what();
      }
    });
    tell(options, pixels ? "checking" : "looking", std::min(n, first + block), n);
  }
}

/// Takes unreadable pictures out and returns a line for each, or throws for the first.
std::string leave_out_unreadable(std::vector<Picture>& pictures, bool allowed) {
  constexpr std::size_t most_lines = 100;
  std::size_t left_out = 0;
  std::string lines;
  for (const auto& picture : pictures) {
    if (picture.problem.empty()) continue;
    require(Exit::bad_data, allowed, "{} (--skip-unreadable leaves such files out)", picture.problem);
    if (++left_out <= most_lines) lines += "left out: " + picture.problem + "\n";
  }
  if (left_out > most_lines) lines += fmt::format("and {} more\n", left_out - most_lines);
  std::erase_if(pictures, [](const Picture& p) { return !p.problem.empty(); });
  return lines;
}

void require_every_class(const Folder& found) {
  std::vector<bool> there(found.classes.size());
  for (const auto& picture : found.pictures)
    if (!picture.held_out) there[std::size_t(picture.label)] = true;
  for (std::size_t i = 0; i < there.size(); ++i)
    require(Exit::bad_data, there[i], "class '{}' has no PNG or JPEG file to train on{}", found.classes[i],
            found.other_file.empty() ? "" : " (other files were found, such as " + found.other_file + ")");
}

void require_one_size(const std::vector<Picture>& pictures) {
  const Picture& first = pictures[0];
  for (const auto& p : pictures)
    require(Exit::bad_data, p.height == first.height && p.width == first.width,
            "{} has {} x {} pixels (height x width), {} has {} x {}: --size N or --size HxW makes them the same", first.path,
            first.height, first.width, p.path, p.height, p.width);
}

}  // namespace

std::string write_images(const ImagesOptions& input, const ConvertOptions& options) try {
  check_options(options);
  constexpr std::int64_t most = 8192;
  const bool resized = input.height != 0 || input.width != 0;
  require(Exit::usage, !resized || (input.height >= 1 && input.width >= 1 && input.height <= most && input.width <= most),
          "data images: a size of {} x {}; 1 to {} are possible", input.height, input.width, most);
  require(Exit::usage, input.channels == 0 || input.channels == 1 || input.channels == 3,
          "data images: {} channels; 1 (grey) and 3 (RGB) are possible", input.channels);

  const std::string folder = fs::absolute(input.folder + "/").lexically_normal().parent_path().string();
  Folder found = look(folder, options.validation);
  auto& pictures = found.pictures;
  Pool pool;
  read_headers(pictures, input.skip_unreadable, pool, options);
  std::string notes = leave_out_unreadable(pictures, input.skip_unreadable);
  require_every_class(found);
  if (!resized) require_one_size(pictures);
  if (options.validation > 0) {
    const auto chosen = choose_rows(std::int64_t(pictures.size()), options.validation);
    for (std::size_t i = 0; i < pictures.size(); ++i) pictures[i].held_out = chosen[i];
    require_every_class(found);
  }

  const std::int64_t height = resized ? input.height : pictures[0].height, width = resized ? input.width : pictures[0].width;
  std::int64_t channels = input.channels;
  for (const auto& picture : pictures) channels = std::max(channels, input.channels > 0 ? 0 : picture.channels);
  const Shape row = channels == 1 ? Shape{height, width} : Shape{height, width, channels};
  const std::int64_t row_bytes = count(row), n = std::int64_t(pictures.size());
  std::int64_t part_rows[2] = {0, 0};
  for (const auto& picture : pictures) ++part_rows[picture.held_out];

  DataFiles files(options, file_bytes(n * (row_bytes + 4)));
  std::string report;
  files.write([&] {
    ImageWriter writer(files, u8, hdf5::Element::u8, row, part_rows, options.deflate);
    const Permutation order(n, input.seed, 0);
    const std::int64_t block = std::clamp<std::int64_t>((std::int64_t(64) << 20) / row_bytes, 1, 256);
    std::vector<std::vector<std::uint8_t>> rows(static_cast<std::size_t>(block));
    for (std::int64_t first = 0; first < n; first += block) {
      const std::int64_t many = std::min(block, n - first);
      pool.each(many, [&](std::int64_t i) {
        Picture& picture = pictures[std::size_t(order(first + i))];
        const auto bytes = read_bytes(picture.path);
        picture.checksum = checksum(bytes.data(), bytes.size());
        try {
          Image image = decode_image(bytes, picture.path, channels);
          if (resized) image = cover(image, height, width);
          require(Exit::bad_data, image.height == height && image.width == width, "{}: the file has changed", picture.path);
          rows[std::size_t(i)] = std::move(image.pixels);
        } catch (const Error& e) {
          require(e.exit(), e.exit() != Exit::bad_data, "{} (--skip-unreadable leaves such files out)", e.what());
          throw;
        }
      });
      for (std::int64_t i = 0; i < many; ++i) {
        const Picture& picture = pictures[std::size_t(order(first + i))];
        writer.add(picture.held_out, rows[std::size_t(i)].data(), picture.label);
      }
      tell(options, "writing", first + many, n);
    }
    writer.finish(0, found.classes);
    std::string sums;
    for (const auto& picture : pictures) sums += picture.checksum;
    files.set_origin({folder}, checksum(sums));
    report = writer.report();
  });
  files.commit();
  if (found.other_files > 0)
    notes += fmt::format("left out: {} files that are neither .png nor .jpg, such as {}\n", found.other_files, found.other_file);
  if (!found.other_part.empty()) notes += "left out: " + found.other_part + ": one held-out part is taken\n";
  return report + notes;
} catch (const fs::filesystem_error& e) {
  throw Error(std::string("data images: ") + e.what(), Exit::bad_data);
}

}  // namespace lockstep::io
