#include <c10/core/GradMode.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <iostream>

#include "cli/console.h"
#include "cli/verbs.h"
#include "cli/weights.h"
#include "model/sampling.h"

namespace formwork {
namespace {

struct GenerateRequest {
  std::string run, prompt = "\n", weights = "float32";
  int64_t tokens = 256;
  int64_t seed = 1;
  SamplingOptions sampling;
  bool json = false, quiet = false;
};

Tensor row_of(const std::vector<int64_t>& ids) {
  return at::tensor(ids, at::kLong).unsqueeze(0);
}

/// The prompt in one pass, then a token at a time through the state.
std::vector<int64_t> generate(Model& model, const GenerateRequest& request,
                              const std::vector<int64_t>& prompt,
                              const std::function<void(int64_t)>& each) {
  const c10::NoGradGuard no_grad;
  ModelState state = model.make_state(1, static_cast<int64_t>(prompt.size()) + request.tokens);
  Random random = RandomStream(static_cast<uint64_t>(request.seed)).child("generate").random();
  std::vector<int64_t> made;
  Tensor input = row_of(prompt);
  for (int64_t i = 0; i < request.tokens; ++i) {
    const Tensor logits = model.next_logits(input, state).squeeze(0);
    made.push_back(sample(logits, request.sampling, random));
    each(made.back());
    input = row_of({made.back()});
  }
  return made;
}

void generate_verb(const GenerateRequest& request) {
  LoadedRun run = load_run(request.run);
  use_threads(run.recipe.train.threads);
  const std::string& form = run.model->options().form;
  check(form == "decoder" && run.task->form().output.kind == OutputForm::Kind::tokens, "model.form",
        "found '", form,
        "'; generate needs a decoder that predicts tokens (characters, bytes, sequence)");
  const std::vector<int64_t> prompt = run.task->encode(request.prompt);
  check(!prompt.empty(), "--prompt", "is empty; give at least one character");
  const PackedMaps maps = hold_weights(*run.model, request.weights);
  if (maps.left > 0 && !request.quiet)
    std::fprintf(stderr, "%lld of %lld linear maps cannot hold %s and stay as they are\n",
                 static_cast<long long>(maps.left), static_cast<long long>(maps.left + maps.packed),
                 request.weights.c_str());
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const bool stream = !request.json;
  if (stream) std::cout << request.prompt << std::flush;
  std::string pending;
  const std::vector<int64_t> made = generate(*run.model, request, prompt, [&](int64_t id) {
    if (stream) std::cout << run.task->decode({id}) << std::flush;
  });
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  const double rate = static_cast<double>(made.size()) / seconds;
  if (!request.json) {
    std::cout << std::endl;
    if (!request.quiet) std::fprintf(stderr, "%zu tokens, %.0f tokens/s\n", made.size(), rate);
    return;
  }
  Value table{Table{}};
  table["prompt"] = Value(request.prompt);
  table["text"] = Value(run.task->decode(made));
  table["tokens"] = Value(static_cast<int64_t>(made.size()));
  table["tokens_per_second"] = Value(rate);
  table["weights"]["form"] = Value(request.weights);
  table["weights"]["bytes"] = Value(run.model->weight_bytes());
  table["weights"]["packed_maps"] = Value(maps.packed);
  table["weights"]["other_maps"] = Value(maps.left);
  table["checkpoint"] = Value(run.checkpoint);
  print_json(table);
}

}  // namespace

void add_generate_verb(CLI::App& app) {
  const auto request = std::make_shared<GenerateRequest>();
  CLI::App* verb = app.add_subcommand("generate", "let a trained decoder write");
  verb->add_option("run", request->run, "a run folder or a checkpoint folder")->required();
  verb->add_option("--prompt", request->prompt, "the text to go on from");
  verb->add_option("--tokens", request->tokens, "tokens to make")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 53));
  verb->add_option("--seed", request->seed, "decides the draw")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 53));
  SamplingOptions& s = request->sampling;
  verb->add_option("--temperature", s.temperature, "0 takes the likeliest token")
      ->check(CLI::Range(0.0, 1e6));
  verb->add_option("--top-k", s.top_k, "draw from the k likeliest; 0 = all")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 53));
  verb->add_option("--top-p", s.top_p, "draw from the smallest set with this probability")
      ->check(CLI::Range(0.0, 1.0));
  verb->add_option("--min-p", s.min_p, "least probability relative to the likeliest")
      ->check(CLI::Range(0.0, 1.0));
  verb->add_option("--weights", request->weights,
                   "how linear maps and head hold their weights: float32; bfloat16, half the bytes "
                   "to read for each token; int8, a quarter, with one scale a row (sums stay in "
                   "float32, the text may differ)")
      ->check(CLI::IsMember(weight_forms()));
  verb->add_flag("--json", request->json, "the text as JSON, at the end");
  verb->add_flag("--quiet", request->quiet, "no figures on standard error");
  verb->footer(
      "Examples:\n"
      "  formwork generate runs/play --prompt 'ROMEO:' --tokens 500\n"
      "  formwork generate runs/play --temperature 0.8 --top-p 0.95 --seed 7\n"
      "  formwork generate runs/play --weights int8");
  verb->callback([request] { generate_verb(*request); });
}

}  // namespace formwork
