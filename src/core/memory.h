// How much memory this process uses and could still get.
#pragma once

#include <cstdint>
#include <string>

namespace formwork {

/// Bytes of this process in physical memory now (Linux: /proc, macOS: task_info); 0 where unknown.
int64_t resident_memory();
/// The most that resident_memory() ever was.
int64_t peak_resident_memory();
/// Bytes that could still be taken without swapping or being killed: what the machine has free, and
/// no more than the tightest limit of this process's control groups leaves; 0 where unknown.
int64_t available_memory();

/// Fails with one sentence when `bytes` more than are available would be taken; the sentence begins
/// with `where` and ends with `advice`. Asking first matters: a machine that promises more memory
/// than it has kills the process at the first touch, without a word.
void check_room(double bytes, const std::string& where, const std::string& advice);
/// In 10^9 bytes with one digit, for messages: "12.3".
std::string gigabytes(double bytes);

/// What the control group at folder `group` and those above it, up to `root`, leave: the smallest
/// of limit - (use - caches that can be dropped); -1 where none sets a limit. For tests too.
int64_t memory_left_in_group(const std::string& root, const std::string& group);

}  // namespace formwork
