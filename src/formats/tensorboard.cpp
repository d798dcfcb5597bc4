#include "formats/tensorboard.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <system_error>

#include "core/error.h"

namespace formwork {
namespace {

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ (value & 1 ? 0x82f63b78u : 0u);
    table[byte] = value;
  }
  return table;
}

constexpr std::array<uint32_t, 256> kCrcTable = make_crc_table();

/// TFRecord's mask: the CRC of data that holds its own CRC would be weak.
uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

template <class Number>
std::string little_endian(Number number) {
  std::string bytes;
  for (size_t i = 0; i < sizeof number; ++i) bytes += static_cast<char>((number >> (8 * i)) & 0xff);
  return bytes;
}

std::string varint(uint64_t number) {
  std::string bytes;
  for (; number >= 0x80; number >>= 7) bytes += static_cast<char>((number & 0x7f) | 0x80);
  return bytes + static_cast<char>(number);
}

// Protocol buffers' wire format: a key (field number and wire type), then the value.
std::string whole_field(uint32_t field, int64_t number) {
  return varint(field << 3) + varint(static_cast<uint64_t>(number));
}

std::string double_field(uint32_t field, double number) {
  return varint(field << 3 | 1) + little_endian(std::bit_cast<uint64_t>(number));
}

std::string float_field(uint32_t field, float number) {
  return varint(field << 3 | 5) + little_endian(std::bit_cast<uint32_t>(number));
}

std::string bytes_field(uint32_t field, std::string_view bytes) {
  return varint(field << 3 | 2) + varint(bytes.size()) + std::string(bytes);
}

double now() {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(since).count();
}

/// tensorflow.Event without its content: wall_time = 1, step = 2.
std::string event(int64_t step) {
  return double_field(1, now()) + whole_field(2, step);
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char c : bytes)
    crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 0xff];
  return ~crc;
}

EventWriter::EventWriter(const std::string& folder, int64_t first_step) {
  char host[256] = "localhost";
  ::gethostname(host, sizeof host - 1);
  const auto seconds = static_cast<int64_t>(now());
  for (int number = 0; descriptor_ < 0; ++number) {
    const std::string name =
        join_text("events.out.tfevents.", seconds, ".", host, ".", ::getpid(), ".", number);
    path_ = (std::filesystem::path(folder) / name).string();
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0 && errno != EEXIST)
      fail(path_, "cannot be made: ", std::generic_category().message(errno));
  }
  record(event(0) + bytes_field(3, "brain.Event:2"));  // file_version
  // session_log {status: START}: what readers take as a restart at this step.
  if (first_step > 0) record(event(first_step) + bytes_field(7, whole_field(1, 1)));
}

EventWriter::~EventWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void EventWriter::scalars(int64_t step, const std::vector<std::pair<std::string, double>>& values) {
  std::string summary;  // Summary.value = 1: {tag = 1, simple_value = 2}
  for (const auto& [tag, value] : values)
    summary += bytes_field(1, bytes_field(1, tag) + float_field(2, static_cast<float>(value)));
  if (!summary.empty()) record(event(step) + bytes_field(5, summary));
}

void EventWriter::text(int64_t step, std::string_view tag, std::string_view markdown) {
  // SummaryMetadata.plugin_data = 1: {plugin_name = 1}; data_class = 4: DATA_CLASS_TENSOR.
  const std::string metadata = bytes_field(1, bytes_field(1, "text")) + whole_field(4, 2);
  // TensorProto: dtype = 1 (DT_STRING), tensor_shape = 2 {dim = 2 {size = 1}}, string_val = 8.
  const std::string shape = bytes_field(2, whole_field(1, 1));
  const std::string tensor = whole_field(1, 7) + bytes_field(2, shape) + bytes_field(8, markdown);
  const std::string value = bytes_field(1, tag) + bytes_field(8, tensor) + bytes_field(9, metadata);
  record(event(step) + bytes_field(5, bytes_field(1, value)));
}

void EventWriter::record(const std::string& event) {
  const std::string length = little_endian(static_cast<uint64_t>(event.size()));
  const std::string bytes =
      length + little_endian(masked_crc(length)) + event + little_endian(masked_crc(event));
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::write(descriptor_, bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0)
      fail(path_, "cannot be written: ", std::generic_category().message(errno), ", ",
           bytes.size() - done, " bytes are needed");
    done += static_cast<size_t>(count);
  }
}

}  // namespace formwork
