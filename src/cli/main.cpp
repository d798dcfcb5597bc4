#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <new>

#include "cli/verbs.h"
#include "core/build_info.h"
#include "core/error.h"
#include "core/registry.h"
#include "training/distributed.h"
#include "training/launch.h"

namespace formwork {
namespace {

constexpr char kIntroduction[] =
    "Formwork builds, trains, compares and ships Transformers. Every published method is one "
    "choice\n"
    "on one axis, made by one line of a recipe.\n\n"
    "Try:\n"
    "  formwork train recipes/quickstart.toml          train something real in two minutes\n"
    "  formwork train recipes/quickstart.toml --set model.mixer.kind=linear\n"
    "  formwork methods                                what can be chosen, axis by axis\n"
    "  formwork methods mixer local                    the options of one method\n"
    "  formwork resume runs/NAME                       go on where a run stopped\n"
    "  formwork VERB --help                            a verb with its options and examples\n";

int run(int argc, char** argv) {
  CLI::App app(kIntroduction, "formwork");
  app.set_version_flag("--version", std::string("formwork ") + kVersion);
  app.require_subcommand(0, 1);
  add_train_verb(app);
  add_resume_verb(app);
  add_evaluate_verb(app);
  add_generate_verb(app);
  add_methods_verb(app);
  add_data_verb(app);
  add_bench_verb(app);
  try {
    check_catalogue();
    app.parse(argc, argv);
    if (app.get_subcommands().empty()) std::cout << app.help();
    return 0;
  } catch (const CLI::ParseError& error) {
    // CLI11 prints help and version itself; everything else is the user's mistake.
    return app.exit(error) == 0 ? 0 : 2;
  }
}

/// PyTorch's messages go on with a stack trace after the first line.
std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

}  // namespace

}  // namespace formwork

int main(int argc, char** argv) {
  // A file that grows over RLIMIT_FSIZE is a write error like a full disk, not the end.
  signal(SIGXFSZ, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  formwork::command_line().assign(argv, argv + argc);
  try {
    return formwork::run(argc, argv);
  } catch (const formwork::ProcessGone& gone) {
    if (gone.told()) return formwork::kOtherProcessDied;
    std::fprintf(stderr, "formwork: %s\n", gone.what());
    return 1;
  } catch (const formwork::Error& error) {
    std::fprintf(stderr, "formwork: %s\n", error.what());
    return error.fault() == formwork::Fault::request ? 2 : 1;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr,
                 "formwork: out of memory; make train.batch, task.length or model.width smaller\n");
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "formwork: %s\n", formwork::first_line(error.what()).c_str());
    return 1;
  }
}
