#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "cli/console.h"
#include "cli/exit_status.h"
#include "cli/verbs.h"
#include "formats/atomic_file.h"
#include "formats/json.h"
#include "lab/claims.h"

namespace formwork {
namespace {

struct ClaimsCommand {
  ClaimsRequest claims;
  std::vector<std::string> slugs;
  std::string from = "claims";
  bool json = false, quiet = false, check = false;
};

/// A mistake in any is told before hours of work. Where all are asked for, those whose data is not
/// here are left out, and named.
std::vector<Claim> chosen_claims(const ClaimsCommand& request) {
  std::vector<Claim> chosen;
  for (const std::string& file : claim_files(request.from, request.slugs)) {
    Claim claim = Claim::read(file);
    if (request.slugs.empty() && !claim.needs.empty() && !std::filesystem::exists(claim.needs))
      std::fprintf(stderr, "formwork: claim %s is left out: there is no %s here\n",
                   claim.slug.c_str(), claim.needs.c_str());
    else
      chosen.push_back(std::move(claim));
  }
  return chosen;
}

void claims(const ClaimsCommand& request) {
  const std::vector<Claim> chosen = chosen_claims(request);
  if (request.check) {
    for (const Claim& claim : chosen) check_claim(claim);
    std::printf("%zu claims are well formed\n", chosen.size());
    return;
  }
  const Console console = make_console(request.quiet);
  std::vector<ClaimResult> results;
  bool stopped = false;
  for (const Claim& claim : chosen) {
    if (stopped) break;
    console.write(join_text("claim ", claim.slug, "\n"));
    results.push_back(run_claim(claim, request.claims, console));
    stopped = results.back().stopped;
    const std::filesystem::path out = request.claims.out;
    std::filesystem::create_directories(out);
    const Value value = claims_value(results, request.claims);
    write_file_atomically((out / "claims.json").string(), write_json(value, 2) + "\n");
    write_file_atomically((out / "claims.md").string(), claims_markdown(results));
  }
  if (request.json)
    print_json(claims_value(results, request.claims));
  else
    std::printf("%s\ntable    %s/claims.md\nnumbers  %s/claims.json\n",
                claims_text(results).c_str(), request.claims.out.c_str(),
                request.claims.out.c_str());
  end_with(stopped ? 130 : 0);  // a claim that does not hold is a result
}

}  // namespace

void add_claims_verb(CLI::App& app) {
  const auto request = std::make_shared<ClaimsCommand>();
  CLI::App* verb =
      app.add_subcommand("claims", "check published claims by small experiments of one's own");
  verb->add_option("slug", request->slugs, "names in the folder claims, or files; default all");
  verb->add_flag("--full", request->claims.full, "at the paper's own size, for large machines");
  verb->add_option("--seeds", request->claims.seeds, "trainings of each variant; 0 = the claim's")
      ->check(CLI::Range(0, 1000));
  verb->add_option("--jobs", request->claims.jobs, "trainings at a time; 0 = as many as cores")
      ->check(CLI::Range(0, 4096));
  verb->add_option("--out", request->claims.out, "folder; default comparisons/claims");
  verb->add_option("--from", request->from, "folder of the claims; default claims");
  verb->add_flag("--check", request->check, "only look whether the claims are well formed");
  verb->add_flag("--json", request->json, "the results as JSON on standard output");
  verb->add_flag("--quiet", request->quiet, "no progress");
  verb->footer(
      "Every verdict is computed: holds, does not hold at this scale, or could not be told.\n"
      "Examples:\n"
      "  formwork claims linear_transformer\n"
      "  formwork claims --seeds 5 --out comparisons/claims-5\n"
      "  formwork claims peri_ln --full");
  verb->callback([request] { claims(*request); });
}

}  // namespace formwork
