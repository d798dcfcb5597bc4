// What processor this is.
#pragma once

#include <string>

namespace formwork {

/// The value after `key` in a file of lines "key : value" or "key=value", without quotes; empty
/// where there is none.
std::string field_of_file(const char* path, const std::string& key);
/// As the system names it, "AMD EPYC 7763 64-Core Processor"; empty where it does not.
std::string processor_name();
/// Whether it has instructions that multiply bfloat16; elsewhere such products are emulated,
/// slowly.
bool multiplies_bfloat16();

}  // namespace formwork
