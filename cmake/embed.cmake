# formwork_embed(TARGET NAME FILE): puts a file's bytes into TARGET; code reads them with
#   namespace formwork::assets { std::string_view NAME(); }
# The assembler includes the file as it is, so its size costs no compile time.
function(formwork_embed target name file)
  get_filename_component(file "${file}" REALPATH)
  set(source ${CMAKE_BINARY_DIR}/generated/${name}_asset.cpp)
  file(CONFIGURE OUTPUT ${source} @ONLY CONTENT [=[
#include <string_view>

#ifdef __APPLE__
#define SECTION ".const_data\n"
#define SYMBOL(name) "_" #name
#else
#define SECTION ".section .rodata\n"
#define SYMBOL(name) #name
#endif

asm(SECTION
    ".globl " SYMBOL(formwork_@name@_begin) "\n"
    ".globl " SYMBOL(formwork_@name@_end) "\n"
    SYMBOL(formwork_@name@_begin) ":\n"
    ".incbin \"@file@\"\n"
    SYMBOL(formwork_@name@_end) ":\n"
    ".byte 0\n"
    ".text\n");

extern "C" const char formwork_@name@_begin[];
extern "C" const char formwork_@name@_end[];

namespace formwork::assets {

std::string_view @name@();
std::string_view @name@() {
  return {formwork_@name@_begin, static_cast<size_t>(formwork_@name@_end - formwork_@name@_begin)};
}

}  // namespace formwork::assets
]=])
  set_source_files_properties(${source} PROPERTIES OBJECT_DEPENDS "${file}" SKIP_PRECOMPILE_HEADERS ON)
  target_sources(${target} PRIVATE ${source})
endfunction()

# The plotting library of the pages: Chart.js 3, one file that sets the global `Chart`.
find_file(FORMWORK_CHART_JS NAMES chart.min.js Chart.min.js chart.umd.js
          PATHS /usr/share/javascript/chart.js /usr/share/nodejs/chart.js/dist
          DOC "Chart.js 3 or newer as one file (chart.min.js or chart.umd.js)")
if(NOT FORMWORK_CHART_JS)
  message(FATAL_ERROR "Chart.js (chart.min.js, for the plots on pages) was not found; on Debian: "
                      "libjs-chart.js; elsewhere pass -DFORMWORK_CHART_JS=/path/to/chart.min.js (version 3).")
endif()
formwork_embed(formwork_objects chart_js ${FORMWORK_CHART_JS})
formwork_embed(formwork_objects report_page ${CMAKE_SOURCE_DIR}/src/training/report.html)
formwork_embed(formwork_objects page_css ${CMAKE_SOURCE_DIR}/src/training/page.css)
formwork_embed(formwork_objects page_js ${CMAKE_SOURCE_DIR}/src/training/page.js)
formwork_embed(formwork_objects comparison_html ${CMAKE_SOURCE_DIR}/src/lab/comparison.html)
formwork_embed(formwork_objects comparison_js ${CMAKE_SOURCE_DIR}/src/lab/comparison.js)
formwork_embed(formwork_objects comparison_plots ${CMAKE_SOURCE_DIR}/src/lab/comparison_plots.js)
formwork_embed(formwork_objects method_page ${CMAKE_SOURCE_DIR}/src/lab/method_page.html)
formwork_embed(formwork_objects methods_css ${CMAKE_SOURCE_DIR}/src/lab/methods.css)
formwork_embed(formwork_objects methods_js ${CMAKE_SOURCE_DIR}/src/lab/methods.js)
