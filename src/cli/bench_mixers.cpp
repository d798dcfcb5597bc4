#include <ATen/Parallel.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <torch/csrc/autograd/autograd.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>

#include "cli/bench.h"
#include "cli/console.h"
#include "cli/timing.h"
#include "core/memory.h"
#include "core/peak_bytes.h"
#include "lab/statistics.h"
#include "methods/mixer/mixer.h"
#include "methods/oracle.h"

namespace formwork {
namespace {

struct MixersRequest {
  int64_t from = 256, to = 4096, width = 256, heads = 4, batch = 1;
  double limit = 10.0;
  bool causal = false;
  BenchLimits limits{5};
  std::vector<std::string> only, overrides;
};

/// A mixer alone for one number of tokens.
struct MixerAtLength {
  int64_t tokens = 0;
  std::shared_ptr<Mixer> mixer;
  bool momentum = false;
  std::vector<Tensor> trained;
  int64_t memory = 0;  // most bytes of tensors that a pass held at once
  std::vector<double> times;
};

struct Omission {
  int64_t tokens = 0;  // 0: of every length
  std::string why;
};

struct MixerTimes {
  std::string name;
  std::vector<MixerAtLength> lengths;
  std::vector<Omission> omitted;
};

/// x [B,N,D], which gets a gradient, and the gradient of the mixer's output.
struct Ends {
  Tensor x, gradient;
};

Ends ends_of(const MixersRequest& request, int64_t tokens) {
  const RandomStream random = RandomStream(1).child(static_cast<uint64_t>(tokens));
  const auto draw = [&](const char* name) {
    return normal_tensor({request.batch, tokens, request.width}, 1.0, random.child(name));
  };
  return {draw("x").requires_grad_(), draw("gradient")};
}

/// The mixer with the options that were given.
Choice<Mixer> choice_of(const std::string& name, const MixersRequest& request) {
  Choice<Mixer> choice(name);
  Value options{Table{}};
  for (const std::string& assignment : request.overrides) set_by_path(options, assignment);
  choice.set(*options.get<Table>());
  return choice;
}

MixerAtLength build(const std::string& name, const MixersRequest& request, int64_t tokens) {
  const Choice<Mixer> choice = choice_of(name, request);
  const Mixer::Traits traits = choice.traits();
  check(!request.causal || traits.causal, name, "sees the future, and --causal is given");
  check(request.causal || traits.bidirectional, name, "only looks back, and --causal is not given");
  Site site = plain_site(request.width, request.heads);
  site.length = tokens;
  site.causal = request.causal;
  MixerAtLength result;
  result.tokens = tokens;
  result.mixer = choice.make(site);
  result.momentum = traits.momentum;
  for (const Parameter& parameter : result.mixer->parameters())
    result.trained.push_back(parameter.tensor);
  return result;
}

double pass_milliseconds(const MixerAtLength& at, const Ends& ends) {
  Stream stream;
  Oracle oracle;  // of a mixer with a momentum both halves of the flow are taken
  if (at.momentum) stream.oracle = &oracle;
  oracle.p = ends.gradient;
  const double start = milliseconds();
  std::vector<Tensor> outputs{at.mixer->forward(ends.x, stream)};
  if (at.momentum) outputs.push_back(oracle.force);
  torch::autograd::backward(
      outputs, std::vector<Tensor>(outputs.size(), ends.gradient.narrow(1, 0, outputs[0].size(1))));
  const double spent = milliseconds() - start;
  ends.x.mutable_grad().reset();
  for (const Tensor& tensor : at.trained) tensor.mutable_grad().reset();
  return spent;
}

/// Why `tokens` should not be tried after the last length that was; empty: it should. A mixer is at
/// least linear in time and at most quadratic in memory.
std::string reason_to_stop(const MixerTimes& so_far, double last_ms, int64_t tokens, double limit) {
  const MixerAtLength& last = so_far.lengths.back();
  const double ratio = static_cast<double>(tokens) / static_cast<double>(last.tokens);
  const double seconds = last_ms * ratio / 1e3;
  const double bytes = static_cast<double>(last.memory) * ratio * ratio;
  const double left = static_cast<double>(available_memory());
  if (left > 0.0 && bytes > left)
    return join_text("may need ", gigabytes(bytes), " GB of the ", gigabytes(left), " GB left");
  if (seconds > limit)
    return join_text("a pass would take at least ", std::round(seconds * 10) / 10, " s; --limit ",
                     limit);
  return {};
}

/// Builds a mixer for each length and warms it up; what cannot be measured is noted with the
/// reason.
MixerTimes prepare(const std::string& name, const MixersRequest& request,
                   const std::vector<int64_t>& lengths, const std::map<int64_t, Ends>& ends) {
  MixerTimes result{name, {}, {}};
  double last_ms = 0.0;
  for (const int64_t tokens : lengths) {
    const std::string stop =
        result.lengths.empty() ? "" : reason_to_stop(result, last_ms, tokens, request.limit);
    if (!stop.empty()) {
      result.omitted.push_back({tokens, stop});
      continue;  // each longer one is named too
    }
    try {
      MixerAtLength at = build(name, request, tokens);
      const auto meter = std::make_shared<PeakBytes>();
      {
        const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, meter);
        last_ms = pass_milliseconds(at, ends.at(tokens));
      }
      at.memory = meter->peak();
      result.lengths.push_back(std::move(at));
    } catch (const Error& error) {
      result.omitted.push_back({tokens, error.what()});
    }
  }
  // What refuses for a reason that has nothing to do with the length says it once.
  if (result.lengths.empty() && !result.omitted.empty()) {
    result.omitted.resize(1);
    result.omitted.front().tokens = 0;
  }
  return result;
}

/// Doubling from --from as far as --to.
std::vector<int64_t> series(const MixersRequest& request) {
  check(request.from <= request.to, "--from", "found ", request.from, ", above --to = ", request.to,
        "; valid: no more than that");
  check(request.width % request.heads == 0, "--heads", "found ", request.heads,
        ", which does not divide --width = ", request.width, "; valid: a divisor of it");
  std::vector<int64_t> lengths;
  for (int64_t tokens = request.from; tokens <= request.to; tokens *= 2) lengths.push_back(tokens);
  return lengths;
}

std::vector<std::string> chosen(const MixersRequest& request) {
  check(request.overrides.empty() || request.only.size() == 1, "--set",
        "found without exactly one --only; valid: the options of one mixer, e.g. --only kernel_rpe "
        "--set algorithm=fft");
  if (request.only.empty()) return Registry<Mixer>::instance().names();
  for (const std::string& name : request.only) Registry<Mixer>::instance().find(name, "--only");
  choice_of(request.only.front(), request);  // a wrong option is an error, no omission
  return request.only;
}

/// Every mixer and length once a round, so that all meet the same disturbances of the machine.
std::vector<MixerTimes> measure(const MixersRequest& request, const std::vector<int64_t>& lengths) {
  std::map<int64_t, Ends> ends;
  for (const int64_t tokens : lengths) ends[tokens] = ends_of(request, tokens);
  std::vector<MixerTimes> all;
  for (const std::string& name : chosen(request))
    all.push_back(prepare(name, request, lengths, ends));
  for (int64_t round = 0; round < request.limits.rounds; ++round)
    for (const int64_t tokens : lengths)
      for (MixerTimes& mixer : all)
        for (MixerAtLength& at : mixer.lengths)
          if (at.tokens == tokens) at.times.push_back(pass_milliseconds(at, ends.at(tokens)));
  return all;
}

/// The exponents of time ~ N^a and memory ~ N^a: least squares on logarithms over the upper half of
/// the lengths (three of five), of the least times, which the machine's noise only adds to.
struct Slopes {
  int64_t from = 0, to = 0;
  double time = 0.0, memory = 0.0;
};

std::optional<Slopes> slopes_of(const MixerTimes& mixer) {
  const size_t count = mixer.lengths.size();
  if (count < 2) return std::nullopt;
  const size_t first = std::min((count - 1) / 2, count - 2);
  std::vector<double> tokens, times, bytes;
  for (size_t i = first; i < count; ++i) {
    const MixerAtLength& at = mixer.lengths[i];
    tokens.push_back(std::log(static_cast<double>(at.tokens)));
    times.push_back(std::log(least(at.times)));
    bytes.push_back(std::log(static_cast<double>(at.memory)));
  }
  return Slopes{mixer.lengths[first].tokens, mixer.lengths.back().tokens,
                fit_line(tokens, times).slope, fit_line(tokens, bytes).slope};
}

double tokens_per_second(const MixerAtLength& at, const MixersRequest& request) {
  return static_cast<double>(at.tokens * request.batch) / median(at.times) * 1e3;
}

Value to_value(const MixerTimes& mixer, const MixersRequest& request) {
  Value entry{Table{}};
  entry["mixer"] = Value(mixer.name);
  List lengths, omitted;
  for (const MixerAtLength& at : mixer.lengths) {
    Value item{Table{}};
    item["tokens"] = Value(at.tokens);
    item["parameters"] = Value(at.mixer->parameter_count());
    item["ms"]["median"] = Value(median(at.times));
    item["ms"]["least"] = Value(least(at.times));
    item["ms"]["spread"] = Value(spread(at.times));
    item["tokens_per_second"] = Value(tokens_per_second(at, request));
    item["memory_bytes"] = Value(at.memory);
    lengths.push_back(std::move(item));
  }
  for (const Omission& omission : mixer.omitted) {
    Value item{Table{}};
    item["tokens"] = omission.tokens > 0 ? Value(omission.tokens) : Value();
    item["why"] = Value(omission.why);
    omitted.push_back(std::move(item));
  }
  entry["lengths"] = Value(std::move(lengths));
  entry["omitted"] = Value(std::move(omitted));
  if (const auto slopes = slopes_of(mixer)) {
    entry["slope"]["from"] = Value(slopes->from);
    entry["slope"]["to"] = Value(slopes->to);
    entry["slope"]["time"] = Value(slopes->time);
    entry["slope"]["memory"] = Value(slopes->memory);
  }
  return entry;
}

void print(const MixerTimes& mixer, const MixersRequest& request) {
  const char* name = mixer.name.c_str();
  for (const MixerAtLength& at : mixer.lengths) {
    std::printf("%-20s %8lld %11.2f %6.0f %% %10.2f %11.0f %9.1f\n", name,
                static_cast<long long>(at.tokens), median(at.times), 100.0 * spread(at.times),
                least(at.times), tokens_per_second(at, request),
                static_cast<double>(at.memory) / 1e6);
    name = "";
  }
  for (const Omission& omission : mixer.omitted) {
    const std::string tokens =
        omission.tokens > 0 ? std::to_string(omission.tokens) : std::string("all");
    std::printf("%-20s %8s  left out: %s\n", name, tokens.c_str(), omission.why.c_str());
    name = "";
  }
  if (const auto slopes = slopes_of(mixer))
    std::printf("%-20s %8s  time ~ N^%.2f, memory ~ N^%.2f from %lld to %lld tokens\n", "", "",
                slopes->time, slopes->memory, static_cast<long long>(slopes->from),
                static_cast<long long>(slopes->to));
}

Value to_value(const std::vector<MixerTimes>& all, const MixersRequest& request) {
  Value table{Table{}};
  table["batch"] = Value(request.batch);
  table["width"] = Value(request.width);
  table["heads"] = Value(request.heads);
  table["causal"] = Value(request.causal);
  table["rounds"] = Value(request.limits.rounds);
  table["threads"] = Value(int64_t{at::get_num_threads()});
  List entries;
  for (const MixerTimes& mixer : all) entries.push_back(to_value(mixer, request));
  table["mixers"] = Value(std::move(entries));
  return table;
}

void print(const std::vector<MixerTimes>& all, const MixersRequest& request) {
  std::printf(
      "mixers in training (forward and backward), x [%lld, N, %lld] float32, %lld heads, %s, %d "
      "threads, %lld rounds\n%-20s %8s %11s %8s %10s %11s %9s\n",
      static_cast<long long>(request.batch), static_cast<long long>(request.width),
      static_cast<long long>(request.heads), request.causal ? "causal" : "both ways",
      at::get_num_threads(), static_cast<long long>(request.limits.rounds), "", "tokens",
      "median, ms", "spread", "least, ms", "tokens/s", "MB");
  for (const MixerTimes& mixer : all) print(mixer, request);
  std::printf(
      "spread: between the quartiles, of the median. MB: most that the pass's tensors held at "
      "once. Exponents:\nleast squares over the upper half of the lengths, of the least times.\n");
}

void bench_mixers(const MixersRequest& request) {
  use_threads(request.limits.threads);
  const std::vector<MixerTimes> all = measure(request, series(request));
  if (request.limits.json)
    print_json(to_value(all, request));
  else
    print(all, request);
}

}  // namespace

void add_bench_mixers(CLI::App& bench) {
  const auto request = std::make_shared<MixersRequest>();
  CLI::App* verb = bench.add_subcommand(
      "mixers", "every mixer's forward and backward pass, and how it grows with the tokens");
  const CLI::Range size(int64_t{1}, int64_t{1} << 30);
  verb->add_option("--from", request->from, "fewest tokens; doubled as far as --to")->check(size);
  verb->add_option("--to", request->to, "most tokens")->check(size);
  verb->add_option("--width", request->width, "channels")->check(size);
  verb->add_option("--heads", request->heads, "heads")->check(size);
  verb->add_option("--batch", request->batch, "sequences")->check(size);
  verb->add_option("--limit", request->limit,
                   "seconds; lengths at which one pass would take longer are left out")
      ->check(CLI::PositiveNumber);
  verb->add_flag("--causal", request->causal, "mixers as in a decoder; else they see both ways");
  verb->add_option("--only", request->only, "this mixer; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_option("--set", request->overrides,
                   "KEY=VALUE, changes one option of the one mixer; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  add_bench_limits(*verb, request->limits);
  verb->footer(
      "Example:\n  formwork bench mixers --only kernel_rpe --set algorithm=fft --from 1024 --to "
      "16384");
  verb->callback([request] { bench_mixers(*request); });
}

}  // namespace formwork
