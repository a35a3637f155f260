// SPDX-License-Identifier: Apache-2.0
#define CATCH_CONFIG_RUNNER
#define CATCH_CONFIG_EXTERNAL_INTERFACES
#define CATCH_CONFIG_NO_POSIX_SIGNALS  // the process may die of a signal: its parent says so
#include "bench/gpu/catch_cases.h"

#include "support/catch.h"

namespace flexgen::bench {
namespace {

Check g_last;  // what the listener saw

class Listener : public Catch::TestEventListenerBase {
 public:
  using TestEventListenerBase::TestEventListenerBase;

  void testCaseStarting(const Catch::TestCaseInfo& info) override { g_last = {info.name, 0, 0, ""}; }
  bool assertionEnded(const Catch::AssertionStats& stats) override {
    const Catch::AssertionResult& result = stats.assertionResult;
    if (result.isOk() || !g_last.message.empty()) return false;
    g_last.message = result.getExpressionInMacro() + ": ";
    g_last.message += result.hasMessage() ? std::string(result.getMessage()) : result.getExpandedExpression();
    return false;
  }
  void testCaseEnded(const Catch::TestCaseStats& stats) override {
    g_last.passed = stats.totals.assertions.passed, g_last.failed = stats.totals.assertions.failed;
  }
};
CATCH_REGISTER_LISTENER(Listener)

Catch::Session& session() {
  static Catch::Session one;
  return one;
}

}  // namespace

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const Catch::TestCase& c : Catch::getAllTestCasesSorted(session().config())) names.push_back(c.getTestCaseInfo().name);
  return names;
}

Check run_case(const std::string& name) {
  g_last = {name, 0, 1, "the case was not found"};
  std::string escaped;
  for (char c : name) {
    if (std::string_view(",[]\"*~\\").find(c) != std::string_view::npos) escaped += '\\';
    escaped += c;
  }
  Catch::ConfigData data;
  data.testsOrTags = {escaped};
  data.abortAfter = 20;
  session().useConfigData(data);
  session().run();
  return g_last;
}

}  // namespace flexgen::bench
