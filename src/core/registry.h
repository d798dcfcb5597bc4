// One registry an axis, one registration a method file, no list anywhere else.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <source_location>
#include <string>
#include <type_traits>
#include <vector>

#include "core/options.h"

namespace formwork {

/// The paper a method comes from: an arXiv id, or words where there is none.
struct Citation {
  std::string text;
};
inline Citation cite(const std::string& arxiv_or_words) {
  return {arxiv_or_words};
}

/// The specification (and golden folder) a method answers to; several methods may share one.
struct Specification {
  std::string slug;
};
inline Specification specified_by(const std::string& slug) {
  return {slug};
}

/// What is known of a method without building it.
struct MethodInfo {
  std::string axis, name, summary, paper, specification, file;
  std::function<std::unique_ptr<Options>()> make_options;
};

/// Every registered method of every axis, sorted by axis and name.
const std::vector<const MethodInfo*>& catalogue();
/// Refuses when two files registered one name on one axis, naming both; called at program start.
void check_catalogue();
/// For Registry only.
void add_to_catalogue(const MethodInfo* info);

namespace internal {
/// Wraps a plain options struct with describe(OptionSet&).
template <class T>
struct OptionsBox final : Options {
  T value;
  void describe(OptionSet& set) override { value.describe(set); }
  std::unique_ptr<Options> clone() const override { return std::make_unique<OptionsBox>(*this); }
};
}  // namespace internal

/// The methods of one axis. An axis is a class with
///   static constexpr const char* kAxis;  the name of the axis
///   using Context = ...;                 what a method is built from
///   struct Traits;                       what a method declares before it is built
template <class Axis>
class Registry {
 public:
  struct Entry : MethodInfo {
    std::function<std::shared_ptr<Axis>(const Options&, typename Axis::Context&)> make;
    std::function<typename Axis::Traits(const Options&)> traits;
  };

  static Registry& instance() {
    static Registry registry;
    return registry;
  }

  void add(std::unique_ptr<Entry> entry) {
    add_to_catalogue(entry.get());
    entries_.emplace(entry->name, std::move(entry));
  }

  const Entry& find(const std::string& name, const std::string& where) const {
    const auto found = entries_.find(name);
    if (found == entries_.end())
      refuse(where, unknown_name(std::string(Axis::kAxis), name, names()));
    return *found->second;
  }

  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& [name, entry] : entries_) all.push_back(name);
    return all;
  }

 private:
  // A multimap, so that check_catalogue can still name both files of a doubled name.
  std::multimap<std::string, std::unique_ptr<Entry>> entries_;
};

/// An options struct for methods that have none.
struct NoOptions {
  void describe(OptionSet&) {}
};

/// Registers `Method` on `Axis`; one namespace-scope constant a method file. `Method` has a
/// constructor (const OptionStruct&, Axis::Context&) and, where it differs from the axis' default,
/// `static Axis::Traits traits(const OptionStruct&)`.
template <class Axis, class Method, class OptionStruct = NoOptions>
struct Register {
  Register(const std::string& name, const std::string& summary, const Citation& paper,
           const Specification& specification,
           const std::source_location& where = std::source_location::current()) {
    using Box = internal::OptionsBox<OptionStruct>;
    auto entry = std::make_unique<typename Registry<Axis>::Entry>();
    entry->axis = Axis::kAxis;
    entry->name = name;
    entry->summary = summary;
    entry->paper = paper.text;
    entry->specification = specification.slug;
    entry->file = where.file_name();
    entry->make_options = [] { return std::make_unique<Box>(); };
    entry->make = [](const Options& options, typename Axis::Context& context) {
      return std::make_shared<Method>(static_cast<const Box&>(options).value, context);
    };
    entry->traits = [](const Options& options) -> typename Axis::Traits {
      if constexpr (requires(const OptionStruct& o) { Method::traits(o); })
        return Method::traits(static_cast<const Box&>(options).value);
      else
        return typename Axis::Traits{};
    };
    Registry<Axis>::instance().add(std::move(entry));
  }
};

/// One choice on an axis with its options: what a recipe holds and a model is built from.
template <class Axis>
class Choice final : public AnyChoice {
 public:
  explicit Choice(const std::string& kind) : kind_(kind) {}
  Choice(const Choice& other)
      : kind_(other.kind_), options_(other.options_ ? other.options_->clone() : nullptr) {}
  Choice& operator=(const Choice& other) {
    kind_ = other.kind_;
    options_ = other.options_ ? other.options_->clone() : nullptr;
    return *this;
  }

  std::string axis() const override { return Axis::kAxis; }
  const std::string& kind() const override { return kind_; }
  void select(const std::string& kind, const std::string& where) override {
    options_ = Registry<Axis>::instance().find(kind, where).make_options();
    kind_ = kind;
  }
  Options& options() override {
    if (!options_) options_ = entry().make_options();
    return *options_;
  }
  std::vector<std::string> kinds() const override { return Registry<Axis>::instance().names(); }

  /// Sets options from a table, for tests and programs: `choice.set({{"window", int64_t{64}}})`.
  Choice& set(const Table& table) {
    OptionSet set;
    options().describe(set);
    set.read(Value(table), std::string(Axis::kAxis));
    return *this;
  }
  std::shared_ptr<Axis> make(typename Axis::Context& context) const {
    return entry().make(mutable_options(), context);
  }
  typename Axis::Traits traits() const { return entry().traits(mutable_options()); }

 private:
  const typename Registry<Axis>::Entry& entry() const {
    return Registry<Axis>::instance().find(kind_, Axis::kAxis);
  }
  const Options& mutable_options() const { return const_cast<Choice*>(this)->options(); }

  std::string kind_;
  // Made on first use, so that a Choice may be a default member before all registrations have run.
  std::unique_ptr<Options> options_;
};

}  // namespace formwork
