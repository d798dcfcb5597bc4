#include <signal.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

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
    "  formwork inspect runs/NAME                      look inside the trained model\n"
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
  add_inspect_verb(app);
  try {
    check_catalogue();
    app.parse(argc, argv);
    if (app.get_subcommands().empty()) std::cout << app.help();
    return 0;
  } catch (const CLI::RuntimeError& end) {
    return end.get_exit_code();  // a verb that has said all it had to, see end_with
  } catch (const CLI::Success& help) {
    return app.exit(help);  // prints the help or the version
  } catch (const CLI::ExtrasError& error) {
    std::vector<std::string> verbs;
    for (const CLI::App* verb : app.get_subcommands(nullptr)) verbs.push_back(verb->get_name());
    const std::string word = argc > 1 ? argv[1] : "";
    if (app.get_subcommands().empty() && !word.empty() && word[0] != '-')
      refuse("command line", unknown_name("verb", word, verbs));
    refuse("command line", error.what(), "; formwork VERB --help shows what is valid");
  } catch (const CLI::ParseError& error) {
    refuse("command line", error.what(), "; formwork VERB --help shows what is valid");
  }
}

int out_of_memory() {
  std::fprintf(
      stderr,
      "formwork: model.width: out of memory; make model.width, model.depth, task.length or "
      "train.batch smaller\n");
  return 1;
}

/// PyTorch's messages go on with a stack trace after the first line.
std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

}  // namespace

}  // namespace formwork

int main(int argc, char** argv) {
#ifdef __GLIBC__
  // A step frees and takes the same large tensors again and again: memory that stays with the
  // process costs no page faults (measured: a quarter more tokens a second).
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, 0x7fffffff);
#endif
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
    return formwork::out_of_memory();
  } catch (const std::exception& error) {
    if (std::string(error.what()).find("allocate memory") != std::string::npos)
      return formwork::out_of_memory();
    std::fprintf(stderr, "formwork: %s\n", formwork::first_line(error.what()).c_str());
    return 1;
  }
}
