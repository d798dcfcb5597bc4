#include "training/distributed.h"

#include <ATen/core/grad_mode.h>

#include <chrono>
#include <cstdlib>
#include <map>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "core/error.h"
#include "methods/collective.h"
#include "training/heartbeat.h"
#include "training/launch.h"
#include "training/process_place.h"
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

namespace formwork {
namespace {

using namespace std::chrono_literals;

// All must have started by then; a queue may hold some of them back.
constexpr auto kMeeting = 300s;
// Collectives wait for slow processes; that one died is noticed by its connection or heartbeat.
constexpr auto kPatience = 24h;
constexpr int kSilentRounds = 20;
constexpr const char* kClosed = Heartbeat::kClosed;
constexpr const char* kAdvice = "; resume from the last checkpoint";
constexpr int64_t kBucketBytes = 16 << 20;

// libtorch's messages go on with a stack trace.
std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

c10::intrusive_ptr<c10d::TCPStore> open_store(const ProcessPlace& place) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(place.port);
  options.isServer = place.rank == 0;
  options.numWorkers = static_cast<size_t>(place.size);
  options.timeout = kMeeting;
  try {
    return c10::make_intrusive<c10d::TCPStore>(place.address, options);
  } catch (const std::exception& error) {
    fail("distributed", "process ", place.rank, " of ", place.size, " did not meet the others at ",
         place.address, ":", place.port, " (", first_line(error.what()),
         "); all must be started, and MASTER_ADDR and MASTER_PORT be free and reachable");
  }
}

c10::intrusive_ptr<c10d::Backend> open_gloo(const c10::intrusive_ptr<c10d::Store>& store,
                                            const ProcessPlace& place) {
  using c10d::ProcessGroupGloo;
  const auto options = ProcessGroupGloo::Options::create(kPatience);
  const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
  if (interface != nullptr && *interface != '\0')
    options->devices.push_back(ProcessGroupGloo::createDeviceForInterface(interface));
  else if (place.address == "localhost" || place.address.starts_with("127."))
    options->devices.push_back(ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
  else
    options->devices.push_back(ProcessGroupGloo::createDefaultDevice());
  return c10::make_intrusive<ProcessGroupGloo>(
      c10::make_intrusive<c10d::PrefixStore>("gloo", store), place.rank, place.size, options);
}

/// The connections of one process to the others.
struct Connections {
  explicit Connections(const ProcessPlace& own)
      : place(own), store(open_store(own)), heartbeat(store->clone(), own.rank, own.size) {
    try {
      gloo = open_gloo(store, own);
    } catch (const std::exception& error) {
      report(error.what());
    }
  }

  c10d::Backend& backend(const at::Tensor& tensor) {
    if (tensor.is_cpu()) return *gloo;
#ifdef USE_C10D_NCCL
    if (!nccl)
      nccl = c10::make_intrusive<c10d::ProcessGroupNCCL>(
          c10::make_intrusive<c10d::PrefixStore>("nccl", store), place.rank, place.size,
          c10d::ProcessGroupNCCL::Options::create());
    return *nccl;
#else
    fail("distributed", "a tensor is on ", tensor.device(),
         ", but this libtorch was built without NCCL; train on the CPU or use another libtorch");
#endif
  }

  c10::intrusive_ptr<c10d::Work> start_sum(const at::Tensor& tensor) {
    return guarded([&] {
      std::vector<at::Tensor> list{tensor};
      return backend(tensor).allreduce(list);
    });
  }

  /// Waits until the work is done or a process is known to be gone.
  void finish(const c10::intrusive_ptr<c10d::Work>& work) {
    int64_t seen = heartbeat.rounds();
    int unanswered = 0;
    auto pause = 20us;
    for (auto second = std::chrono::steady_clock::now() + 1s; !work->isCompleted();) {
      std::this_thread::sleep_for(pause);
      pause = std::min(pause * 5 / 4, 500us);
      if (std::chrono::steady_clock::now() < second) continue;
      second = std::chrono::steady_clock::now() + 1s;
      unanswered = heartbeat.rounds() == seen ? unanswered + 1 : 0;
      seen = heartbeat.rounds();
      if (const auto silence = heartbeat.silent(kSilentRounds))
        gone(silence->rank, silence->reason);
      if (unanswered >= kSilentRounds) gone(0, "its machine does not answer");
    }
    guarded([&] {
      work->wait();
      return 0;
    });
  }

  template <class Act>
  auto guarded(const Act& act) -> decltype(act()) {
    try {
      return act();
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      report(error.what());
    }
  }

  /// A connection broke: the heartbeats say whose.
  [[noreturn]] void report(const std::string& reason) {
    const bool closed = reason.find("onnection") != std::string::npos;
    const std::string what = closed ? kClosed : first_line(reason);
    if (place.size == 2) gone(1 - place.rank, what);
    // Not needed where the launcher sees which process it was.
    for (int second = 0; second < 8 && !started_by_launcher(); ++second) {
      if (const auto silence = heartbeat.silent(3)) gone(silence->rank, what);
      std::this_thread::sleep_for(1s);
    }
    broken = true;
    throw ProcessGone(join_text("one of ", place.size, " processes is gone: ", what, kAdvice),
                      closed && started_by_launcher());
  }

  [[noreturn]] void gone(int rank, const std::string& reason) {
    broken = true;
    throw ProcessGone(
        join_text("process ", rank, " of ", place.size, " is gone: ", reason, kAdvice),
        reason == kClosed && started_by_launcher());
  }

  ProcessPlace place;
  c10::intrusive_ptr<c10d::TCPStore> store;
  Heartbeat heartbeat;
  c10::intrusive_ptr<c10d::Backend> gloo, nccl;
  bool broken = false;
};

/// Tensors of one type and device that travel as one.
std::vector<std::vector<at::Tensor>> buckets_of(const std::vector<at::Tensor>& tensors) {
  std::map<std::pair<at::ScalarType, std::string>, size_t> open;
  std::vector<std::vector<at::Tensor>> buckets;
  std::vector<int64_t> bytes;
  for (const at::Tensor& tensor : tensors) {
    if (!tensor.defined() || tensor.numel() == 0) continue;
    const auto [place, fresh] =
        open.try_emplace({tensor.scalar_type(), tensor.device().str()}, buckets.size());
    if (!fresh && bytes[place->second] >= kBucketBytes) place->second = buckets.size();
    if (place->second == buckets.size()) {
      buckets.emplace_back();
      bytes.push_back(0);
    }
    buckets[place->second].push_back(tensor.detach());
    bytes[place->second] += static_cast<int64_t>(tensor.nbytes());
  }
  return buckets;
}

at::Tensor pack(const std::vector<at::Tensor>& bucket) {
  std::vector<at::Tensor> flat;
  for (const at::Tensor& tensor : bucket) flat.push_back(tensor.reshape({-1}));
  return at::cat(flat);
}

void unpack(const at::Tensor& packed, const std::vector<at::Tensor>& bucket) {
  int64_t start = 0;
  for (const at::Tensor& tensor : bucket) {
    tensor.copy_(packed.narrow(0, start, tensor.numel()).view(tensor.sizes()));
    start += tensor.numel();
  }
}

class Alone final : public Processes {
 public:
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 1; }
  int64_t local_rank() const override { return 0; }
  void all_reduce_sum(std::vector<Tensor>&) override {}
  double sum(double value) override { return value; }
  std::map<std::string, double> sum(const std::map<std::string, double>& values) override {
    return values;
  }
  double from_first(double value) override { return value; }
  void barrier() override {}
};

class Several final : public Processes {
 public:
  explicit Several(const ProcessPlace& place)
      : place_(place), connections_(std::make_unique<Connections>(place)) {
    set_process_sum([this](Tensor& tensor) { summed(tensor); });
  }

  ~Several() override {
    set_process_sum({});
    // Process 0 holds the store and leaves with the others, so that no heartbeat misses it.
    if (!connections_->broken && std::uncaught_exceptions() == 0) {
      try {
        Several::barrier();
      } catch (const std::exception&) {
        // Nobody can be told in a destructor, and there is nothing left to do with the others.
      }
    }
    // Work that waits for a dead process never ends, and Gloo's destructor would wait for it.
    if (connections_->broken) (void)connections_.release();
  }

  int64_t rank() const override { return place_.rank; }
  int64_t size() const override { return place_.size; }
  int64_t local_rank() const override { return place_.local_rank; }

  void all_reduce_sum(std::vector<Tensor>& tensors) override {
    const at::NoGradGuard no_grad;
    const auto buckets = buckets_of(tensors);
    std::vector<std::pair<Tensor, c10::intrusive_ptr<c10d::Work>>> under_way;
    for (const auto& bucket : buckets) {
      const Tensor packed = pack(bucket);
      under_way.emplace_back(packed, connections_->start_sum(packed));
    }
    for (size_t i = 0; i < buckets.size(); ++i) {
      connections_->finish(under_way[i].second);
      unpack(under_way[i].first, buckets[i]);
    }
  }

  double sum(double value) override {
    return summed(at::full({}, value, at::kDouble)).item<double>();
  }

  std::map<std::string, double> sum(const std::map<std::string, double>& values) override {
    std::map<std::string, double> sums;
    for (const std::string& name : all_names(values)) sums[name] = 0.0;
    const Tensor numbers = at::zeros({static_cast<int64_t>(sums.size())}, at::kDouble);
    auto* number = numbers.mutable_data_ptr<double>();
    for (const auto& [name, start] : sums) {
      const auto own = values.find(name);
      *number++ = own == values.end() ? start : own->second;
    }
    const Tensor total = summed(numbers);
    const auto* result = total.const_data_ptr<double>();
    for (auto& [name, value] : sums) value = *result++;
    return sums;
  }

  double from_first(double value) override { return sum(place_.rank == 0 ? value : 0.0); }
  void barrier() override { sum(0.0); }

 private:
  Tensor summed(const Tensor& tensor) {
    const at::NoGradGuard no_grad;
    connections_->finish(connections_->start_sum(tensor));
    return tensor;
  }

  /// The names of all processes. Each writes its own row into a table of zeros; the sum of the
  /// tables has all rows.
  std::vector<std::string> all_names(const std::map<std::string, double>& values) {
    std::string text;
    for (const auto& [name, value] : values) text += name + '\n';
    const Tensor lengths = at::zeros({place_.size}, at::kLong);
    lengths[place_.rank].fill_(static_cast<int64_t>(text.size()));
    const int64_t longest = summed(lengths).max().item<int64_t>();
    const Tensor table = at::zeros({place_.size, longest}, at::kByte);
    std::copy(text.begin(), text.end(), table.mutable_data_ptr<uint8_t>() + place_.rank * longest);
    const Tensor rows = summed(table);
    std::vector<std::string> names(1);
    for (const uint8_t *c = rows.const_data_ptr<uint8_t>(), *end = c + rows.numel(); c < end; ++c) {
      if (*c == 0) continue;
      if (*c == '\n')
        names.emplace_back();
      else
        names.back() += static_cast<char>(*c);
    }
    names.pop_back();
    return names;
  }

  ProcessPlace place_;
  std::unique_ptr<Connections> connections_;
};

}  // namespace

std::unique_ptr<Processes> Processes::from_environment() {
  const ProcessPlace place = place_from_environment();
  if (place.size == 1) return std::make_unique<Alone>();
  return std::make_unique<Several>(place);
}

bool Processes::started() {
  return place_is_given();
}

}  // namespace formwork
