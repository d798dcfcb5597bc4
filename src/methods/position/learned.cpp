#include "methods/position/position.h"

namespace formwork {
namespace {

struct LearnedOptions {
  std::optional<int64_t> max_positions;
  std::string grid = "line";
  std::optional<int64_t> rows, columns, input_rows, input_columns;
  double deviation = 0.02;
  void describe(OptionSet& o) {
    o.add("max_positions", max_positions,
          "rows of the table of grid line; default: the longest sequence of the task, else 1024",
          at_least(1));
    o.add("grid", grid,
          "line: one vector a position; cell: one a cell of a grid; row_column: a row's plus a "
          "column's",
          one_of({"line", "cell", "row_column"}));
    o.add("rows", rows, "rows of the grid that is learned", at_least(1));
    o.add("columns", columns, "columns of the grid that is learned", at_least(1));
    o.add("input_rows", input_rows,
          "rows of the grid that comes in, where it differs: the table is resized bilinearly",
          at_least(1));
    o.add("input_columns", input_columns, "columns of the grid that comes in, where they differ",
          at_least(1));
    o.add("deviation", deviation, "standard deviation at the start", at_least(0));
    o.require(
        "max_positions", [this] { return grid == "line" || !max_positions; },
        "goes with grid line; valid: rows and columns for a grid");
    o.require(
        "rows", [this] { return (grid != "line") == rows.has_value(); },
        "goes with grid cell or row_column, which need it");
    o.require(
        "columns", [this] { return (grid != "line") == columns.has_value(); },
        "goes with grid cell or row_column, which need it");
    o.require(
        "input_rows", [this] { return grid != "line" || !input_rows; },
        "goes with grid cell or row_column");
    o.require(
        "input_columns", [this] { return grid != "line" || !input_columns; },
        "goes with grid cell or row_column");
  }
};

/// x + table[p]. On a grid position p stands at row p / columns and column p % columns, and has a
/// vector of its own or the sum of its row's and its column's; a grid of another size than the
/// learned one is served by bilinear resizing (align_corners = false).
/// Devlin et al. 2018, arXiv 1810.04805; Dosovitskiy et al. 2020, arXiv 2010.11929.
class Learned final : public Position {
 public:
  Learned(const LearnedOptions& options, const PositionSite& site) : options_(options) {
    const double deviation = options.deviation;
    if (options.grid == "line") {
      places_ = options.max_positions.value_or(site.length > 0 ? site.length : 1024);
      table_ = add_parameter("weight", normal_tensor({places_, site.width}, deviation, site.random),
                             Role::position);
      return;
    }
    const int64_t rows = *options.rows, columns = *options.columns;
    places_ = options.input_rows.value_or(rows) * options.input_columns.value_or(columns);
    if (options.grid == "cell") {
      table_ = add_parameter("weight",
                             normal_tensor({rows * columns, site.width}, deviation, site.random),
                             Role::position);
      return;
    }
    row_ =
        add_parameter("row", normal_tensor({rows, site.width}, deviation, site.random.child("row")),
                      Role::position);
    column_ = add_parameter(
        "column", normal_tensor({columns, site.width}, deviation, site.random.child("column")),
        Role::position);
  }
  static Traits traits(const LearnedOptions&) { return {.adds = true, .any_length = false}; }

  Tensor add(const Tensor& x, const Tensor& positions) override {
    expect_inside(positions);
    Tensor places;
    if (options_.grid != "row_column") {
      places = at::embedding(resized(), positions);
    } else {
      const int64_t columns = options_.input_columns.value_or(*options_.columns);
      const int64_t rows = options_.input_rows.value_or(*options_.rows);
      const Tensor row = at::floor_divide(positions, columns);
      places = at::embedding(stretched(row_, rows), row) +
               at::embedding(stretched(column_, columns), at::remainder(positions, columns));
    }
    return x + places.to(x.scalar_type());
  }

 private:
  void expect_inside(const Tensor& positions) const {
    // Elsewhere than on the CPU a look at the numbers would stall the device, which checks itself.
    if (positions.numel() == 0 || !positions.device().is_cpu()) return;
    const int64_t last = positions.max().item<int64_t>();
    check(last < places_ && positions.min().item<int64_t>() >= 0,
          options_.grid == "line" ? "position.max_positions" : "position.rows",
          "position beyond table: found position ", last, "; valid: 0 to ", places_ - 1);
  }

  /// The table of cells for the grid that comes in.
  Tensor resized() const {
    if (options_.grid == "line") return table_;
    const int64_t rows = options_.input_rows.value_or(*options_.rows);
    const int64_t columns = options_.input_columns.value_or(*options_.columns);
    if (rows == *options_.rows && columns == *options_.columns) return table_;
    const Tensor image =
        table_.unflatten(0, {*options_.rows, *options_.columns}).permute({2, 0, 1}).unsqueeze(0);
    return at::upsample_bilinear2d(image, {rows, columns}, false)[0].permute({1, 2, 0}).flatten(0,
                                                                                                1);
  }

  static Tensor stretched(const Tensor& table, int64_t n) {
    if (table.size(0) == n) return table;
    return at::upsample_linear1d(table.t().unsqueeze(0), {n}, false)[0].t();
  }

  LearnedOptions options_;
  int64_t places_ = 0;
  Tensor table_, row_, column_;
};

const Register<Position, Learned, LearnedOptions> learned{
    "learned", "a trained vector for each position added to the tokens", cite("1810.04805"),
    specified_by("position_baselines")};

}  // namespace
}  // namespace formwork
