// What this program was built from and how; the definitions are written by cmake/build_info.cmake.
#pragma once

namespace formwork {

/// The project's version, "0.1.0".
extern const char* const kVersion;
/// The git commit that was checked out at build time, with "-dirty" where files differed from it;
/// empty where there was no git.
extern const char* const kCommit;
/// The compiler and its version.
extern const char* const kCompiler;
/// "Release", "Debug", ... and the compiler's flags.
extern const char* const kBuildType;

}  // namespace formwork
