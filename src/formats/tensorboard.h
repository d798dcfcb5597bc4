// Event files that TensorBoard reads.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace formwork {

/// CRC-32C (Castagnoli), as RFC 3720 defines it.
uint32_t crc32c(std::string_view bytes);

/// Writes <folder>/events.out.tfevents.<time>.<host>.<process>.<n>, a new file each time. Records
/// are length, masked CRC of it, an Event message, masked CRC of it (TensorFlow's TFRecord format).
/// The messages are encoded by hand: they have a dozen fields, and a second protobuf library in one
/// program with the copy inside libtorch clashes with its symbols and its table of descriptors.
class EventWriter {
 public:
  /// With `first_step` > 0 readers drop what older files of the folder hold from that step on: the
  /// training that is resumed there writes it again.
  explicit EventWriter(const std::string& folder, int64_t first_step = 0);
  ~EventWriter();
  EventWriter(const EventWriter&) = delete;
  EventWriter& operator=(const EventWriter&) = delete;

  /// Scalars of one step, such as {"training/loss", 2.3}. Written at once.
  void scalars(int64_t step, const std::vector<std::pair<std::string, double>>& values);
  /// A text (Markdown) such as the recipe.
  void text(int64_t step, std::string_view tag, std::string_view markdown);

  const std::string& path() const { return path_; }

 private:
  void record(const std::string& event);

  std::string path_;
  int descriptor_ = -1;
};

}  // namespace formwork
