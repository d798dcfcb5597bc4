// Tensors beside what they should be.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>

namespace formwork::test {

using at::Tensor;

/// max |a - b| <= tolerance, shapes equal.
void expect_near(const char* what, const Tensor& a, const Tensor& b, double tolerance = 1e-12);
/// Same shape, same bits (NaNs included).
void expect_same_bits(const char* what, const Tensor& a, const Tensor& b);
/// `body` throws an Error whose text holds `part`.
void expect_refused(const std::function<void()>& body, const std::string& part);

}  // namespace formwork::test
