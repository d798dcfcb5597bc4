// What a call is refused with.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "core/error.h"

namespace formwork {

/// The sentence of the Error that `call` throws; a call that throws none is a failure of the test.
template <class Call>
std::string refusal_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "the call was not refused";
  return "";
}

#define EXPECT_REFUSED(call, words)                                             \
  do {                                                                          \
    const std::string sentence = ::formwork::refusal_of([&] { (void)(call); }); \
    EXPECT_NE(sentence.find(words), std::string::npos) << sentence;             \
  } while (false)

}  // namespace formwork
