// The shared precompiled header: what nearly every file needs. Keep it small: templates that wait
// for instantiation here are instantiated again in every file (ATen alone 1.9 s a file; with
// torch/nn, toml++ and nlohmann-json it was 6 s).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>
