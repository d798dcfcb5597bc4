// The steps that conversions are made of. Each changes parts and options together, so that the
// model built from them computes the same.
#pragma once

#include <functional>

#include "methods/transform/anatomy.h"

namespace formwork {

/// Copies of a model's tensors and its options.
ModelParts take_apart(const Module& model, const Value& options);

/// Calls visit(table, path) for the choice on an axis of the whole model and of each [[layer]].
void for_each_choice(Value& options, const std::string& axis,
                     const std::function<void(Value& table, const std::string& path)>& visit);
/// Sets an option of a choice; refuses, with the reason `why`, methods that have no such option.
void set_option(Value& table, const std::string& axis, const std::string& path,
                const std::string& key, const Value& value, const std::string& why);
/// Removes a key of a table, if it is there.
void erase_key(Value& table, const std::string& key);
/// The norm that a choice describes, over `width` channels: to ask what it is made of.
std::shared_ptr<Norm> sample_norm(const Value& table, const std::string& path, int64_t width);

/// Refuses wirings other than x + F(norm(x)), saying that `conversion` needs one.
void expect_norm_first(Value& options, const std::string& conversion);
/// Refuses a map whose weight is not a plain matrix among the tensors.
void expect_plain(const ModelParts& parts, const NamedLinear& map);
/// Refuses parts of mixers and channels that read or write the stream in ways no conversion knows.
void expect_known_branches(const Anatomy& anatomy);

/// Gives a tied head the table as a matrix of its own.
void untie_head(ModelParts& parts, const Module& model);
/// Makes a head that was untied known to the anatomy of the model that it was tied in.
void know_untied_head(const ModelParts& parts, Anatomy& anatomy);
/// Multiplies the factors of LayerScale into the maps that write to the stream.
void fold_layer_scale(ModelParts& parts, const Anatomy& anatomy);

/// Gives every map of mixers and channels a bias (0 where there was none), and the head.
void give_biases(ModelParts& parts, const Anatomy& anatomy);
/// x → x · scale + shift before the maps becomes part of them: W diag(scale), b + W shift. Scale
/// and shift [D] or undefined.
void fold_into(ModelParts& parts, const std::vector<NamedLinear>& maps, const Tensor& scale,
               const Tensor& shift);

}  // namespace formwork
