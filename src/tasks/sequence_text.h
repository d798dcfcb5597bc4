// Generated sequences as text that people can read, and back.
#pragma once

#include <string>
#include <vector>

#include "data/sequences.h"

namespace formwork {

/// The words of a problem's ids. Addition: "12+34=046". Others with at most 26 symbols: a letter
/// each, recall's values in capitals, "|" between the question and the answer ("abc|cba",
/// "aBcD|aB"). More symbols: numbers with blanks between them, recall's values as "=7".
class SequenceText {
 public:
  explicit SequenceText(const SequenceOptions& options) : options_(options) {}
  std::vector<int64_t> encode(const std::string& text) const;
  std::string decode(const std::vector<int64_t>& ids) const;

 private:
  bool letters() const;
  bool separated() const;
  int64_t plain_ids() const;  // ids below the separator
  std::string word(int64_t id) const;
  int64_t id_of(const std::string& word) const;

  SequenceOptions options_;
};

}  // namespace formwork
