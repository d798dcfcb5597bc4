// Expecting an Error and looking at its sentence.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <initializer_list>
#include <string>

#include "core/error.h"

namespace formwork::test {

/// Runs `work`, expects an Error of the given kind whose one-line sentence holds all of `words`,
/// and returns the sentence.
inline std::string expect_error(const std::function<void()>& work, Fault fault,
                                std::initializer_list<std::string> words) {
  try {
    work();
  } catch (const Error& error) {
    const std::string sentence = error.what();
    EXPECT_EQ(error.fault(), fault) << sentence;
    EXPECT_EQ(sentence.find('\n'), std::string::npos) << sentence;
    for (const std::string& word : words)
      EXPECT_NE(sentence.find(word), std::string::npos) << "'" << word << "' in: " << sentence;
    return sentence;
  }
  ADD_FAILURE() << "no error was thrown";
  return "";
}

}  // namespace formwork::test
