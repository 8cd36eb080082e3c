#pragma once

#include <optional>
#include <string>
#include <vector>

#include "io/hdf5.h"

namespace lockstep::io {

/// The datasets of one part (training, validation) inside a file. Targets may be empty: tokens, or no labels wanted. So may the
/// mask, which tokens alone have.
struct Names {
  std::string inputs, targets, mask;
};

/// Which datasets to read, from names given in a configuration (empty: found among common ones) and what is in the file. Common
/// layouts: groups train, validation, test (and short forms) or the same words in the names (x_train, train_images), each with
/// inputs images, x, inputs, data, features, tokens or input_ids and targets labels, y, targets or target. Beside tokens, labels
/// and a mask (attention_mask, loss_mask, mask) are found when they have the tokens' shape. Throws Error (bad_data) that lists
/// what is there.
Names find_training(const std::string& file, const std::vector<hdf5::Info>& there, const std::string& inputs,
                    const std::string& targets, const std::string& mask);
/// The held-out counterpart of `training` in the same file; `part` is a group or dataset that the user named, or empty: none when
/// the file has none.
std::optional<Names> find_validation(const std::string& file, const std::vector<hdf5::Info>& there, const Names& training,
                                     const std::string& part);
/// The held-out rows of a file of their own: its validation or test part, else its only part.
Names find_only(const std::string& file, const std::vector<hdf5::Info>& there, const Names& training);

/// "train/images (60000, 28, 28) u8, train/labels (60000) u8": for messages.
std::string list_datasets(const std::vector<hdf5::Info>& there);

}  // namespace lockstep::io
