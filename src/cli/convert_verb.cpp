#include <CLI/CLI.hpp>

#include "cli/console.h"
#include "cli/verbs.h"
#include "training/conversion.h"

namespace formwork {
namespace {

struct ConvertRequest {
  std::string in, out, transform;
  std::vector<std::string> options;
  int64_t threads = 0;
  bool json = false;
};

Choice<Transform> choose(const ConvertRequest& request) {
  Value table{Table{}};
  table["kind"] = Value(request.transform);
  for (const std::string& assignment : request.options) set_by_path(table, assignment);
  Choice<Transform> choice(request.transform);
  choice.select(request.transform, "--transform");
  read_choice(choice, table, "transform");
  return choice;
}

void print_text(const ConvertRequest& request, const Converted& converted, const Value& figures,
                const std::string& layout) {
  const auto number = [&](const char* key) { return *figures.find(key)->get<double>(); };
  const auto count = [&](const char* key) {
    return static_cast<long long>(*figures.find(key)->get<int64_t>());
  };
  std::printf("%s: %s\n", request.out.c_str(), layout.c_str());
  std::printf("  %-22s %.3g (outputs reach %.3g), on random input\n", "largest difference",
              converted.difference, converted.largest);
  std::printf("  %-22s %lld -> %lld\n", "parameters", count("parameters_before"),
              count("parameters_after"));
  std::printf("  %-22s %.3f ms -> %.3f ms (x %.3f), median of a pass over 2 inputs\n", "time",
              1e3 * number("seconds_before"), 1e3 * number("seconds_after"),
              number("seconds_after") / number("seconds_before"));
  for (const std::string& note : converted.notes) std::printf("  note: %s\n", note.c_str());
}

void convert_verb(const ConvertRequest& request) {
  const Choice<Transform> transform = choose(request);
  expect_new(request.out);
  use_threads(request.threads);
  const SourceModel source = open_model(request.in);
  const Converted converted = convert_model(*source.model, transform);
  const auto [before, after] =
      time_beside(*source.model, *converted.model, random_input(*source.model, 2, 17), 9);
  const std::string layout = save_converted(source, converted, request.transform, request.out);
  Value figures{Table{}};
  figures["out"] = Value(request.out);
  figures["transform"] = Value(request.transform);
  figures["layout"] = Value(layout);
  figures["largest_difference"] = Value(converted.difference);
  figures["largest_output"] = Value(converted.largest);
  figures["parameters_before"] = Value(source.model->parameter_count());
  figures["parameters_after"] = Value(converted.model->parameter_count());
  figures["seconds_before"] = Value(before);
  figures["seconds_after"] = Value(after);
  List notes;
  for (const std::string& note : converted.notes) notes.emplace_back(note);
  figures["notes"] = Value(std::move(notes));
  if (request.json) return print_json(figures);
  print_text(request, converted, figures, layout);
}

}  // namespace

void add_convert_verb(CLI::App& app) {
  const auto request = std::make_shared<ConvertRequest>();
  CLI::App* verb = app.add_subcommand(
      "convert", "rewrite a trained model so that it computes the same in another form");
  verb->add_option("in", request->in,
                   "a run folder, a checkpoint, or a Hugging Face folder (GPT-2, ViT)")
      ->required();
  verb->add_option("out", request->out, "the folder to make; must not exist")->required();
  verb->add_option("--transform", request->transform,
                   "pre_rms, pre_crms, fold: see formwork methods transform")
      ->required();
  verb->add_option("--set", request->options, "KEY=VALUE, an option of the transform")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_option("--threads", request->threads, "threads; 0 = all")
      ->check(CLI::Range(int64_t{0}, int64_t{4096}));
  verb->add_flag("--json", request->json, "figures as JSON");
  verb->footer(
      "Examples:\n"
      "  formwork convert runs/play runs/play-rms --transform pre_rms\n"
      "  formwork convert gpt2 gpt2-crms --transform pre_crms --set storage=exact\n"
      "  formwork convert runs/batch runs/folded --transform fold");
  verb->callback([request] { convert_verb(*request); });
}

}  // namespace formwork
