// `formwork claims`: published statements run as small experiments, with computed verdicts.
#pragma once

#include <string>
#include <vector>

#include "lab/claim.h"
#include "lab/compare.h"
#include "lab/judge.h"

namespace formwork {

struct ClaimsRequest {
  bool full = false;  // the paper's own setting
  int64_t seeds = 0;  // 0 = the claim's own
  int64_t jobs = 0;   // see CompareRequest
  std::string out = "comparisons/claims";
};

/// A claim with what came of it.
struct ClaimResult {
  Claim claim;
  Verdict verdict = Verdict::could_not_be_told;
  std::vector<Judgement> judgements;  // one an expectation
  std::string folder;                 // of its comparison; empty where nothing was trained
  double seconds = 0.0;               // spent now
  bool stopped = false;               // by a signal
};

/// Refuses a claim whose variants cannot be, at either size; trains nothing.
void check_claim(const Claim& claim);

/// Trains (or goes on with) a claim's comparison in <out>/<slug>, and judges.
ClaimResult run_claim(const Claim& claim, const ClaimsRequest& request, const Console& console);

/// The results as {claims: [{slug, citation, statement, verdict, expectations, ...}], machine,
/// ...}.
Value claims_value(const std::vector<ClaimResult>& results, const ClaimsRequest& request);
/// The table for docs and terminals.
std::string claims_markdown(const std::vector<ClaimResult>& results);
std::string claims_text(const std::vector<ClaimResult>& results);

/// The files of the claims called `slugs` (names in `folder`, or paths); all of `folder` when none
/// is given. Refuses unknown names with the nearest known.
std::vector<std::string> claim_files(const std::string& folder,
                                     const std::vector<std::string>& slugs);

}  // namespace formwork
