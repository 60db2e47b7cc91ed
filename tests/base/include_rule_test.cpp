// The include rule: who may include whom. Without it layers grow together one convenient include at
// a time, and the linker only notices calls, not headers.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace {

namespace fs = std::filesystem;

/// A layer's folder and the folders that it may include, its own among them.
struct Layer {
  std::string_view folder;
  std::vector<std::string_view> may_include;
};

const std::vector<Layer>& layers() {
  static const std::vector<Layer> all = {
      {"core/base", {"core/base"}},
      {"kernels", {"core/base", "kernels"}},
      {"dist", {"core/base", "kernels", "dist"}},
      {"data", {"core/base", "data"}},
      {"core/model", {"core/base", "kernels", "dist", "core/model"}},
      {"core/train", {"core/base", "kernels", "dist", "data", "core/model", "core/train"}},
      {"launch", {"core/base", "kernels", "dist", "data", "core/model", "core/train", "launch"}},
  };
  return all;
}

/// A library whose headers only one folder may include. `excepted` is one source outside it.
struct Owned {
  std::string_view header, folder, excepted;
};

constexpr Owned kOwned[] = {
    {"mpi.h", "dist", "launch/doctor.cpp"},   // prints the versions of the
    {"hdf5.h", "data", "launch/doctor.cpp"},  // libraries themselves
    {"CLI/CLI.hpp", "launch", ""},
};

/// Made by CMake in the build folder: t2r's version, for the command line.
constexpr std::string_view kGenerated = "t2r_version.h";

/// True where `path` lies in `folder` or below it.
bool within(std::string_view path, std::string_view folder) {
  return path.size() > folder.size() && path.substr(0, folder.size()) == folder &&
         path[folder.size()] == '/';
}

/// The headers that a source includes, with their opening mark: "a/b.h or <c.
std::vector<std::string> includes_of(const std::string& text) {
  std::vector<std::string> found;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const auto skip = [&](std::size_t from) { return line.find_first_not_of(" \t", from); };
    std::size_t at = skip(0);
    if (at == std::string::npos || line[at] != '#') continue;
    at = skip(at + 1);
    if (at == std::string::npos || line.compare(at, 7, "include") != 0) continue;
    at = skip(at + 7);
    if (at == std::string::npos || (line[at] != '"' && line[at] != '<')) continue;
    found.push_back(line.substr(at, line.find_first_of("\">", at + 1) - at));
  }
  return found;
}

/// One sentence for every include of the source `path` (from the root) that breaks the rule.
std::vector<std::string> violations(const std::string& path, const std::string& text) {
  const auto layer = std::find_if(layers().begin(), layers().end(),
                                  [&](const Layer& l) { return within(path, l.folder); });
  if (layer == layers().end()) return {path + " lies in no layer: see the list in this test"};
  std::vector<std::string> found;
  for (const std::string& include : includes_of(text)) {
    const std::string_view header = std::string_view(include).substr(1);
    const auto in_layer = [&](std::string_view folder) { return within(header, folder); };
    for (const Owned& owned : kOwned)
      if (header == owned.header && layer->folder != owned.folder && path != owned.excepted)
        found.push_back(path + " includes " + std::string(header) + ": only " +
                        std::string(owned.folder) + "/ may");
    const bool ours = std::any_of(layers().begin(), layers().end(),
                                  [&](const Layer& l) { return in_layer(l.folder); });
    if (ours || include[0] == '"') {
      const bool generated = header == kGenerated && layer->folder == "launch";
      if (!generated &&
          std::none_of(layer->may_include.begin(), layer->may_include.end(), in_layer))
        found.push_back(path + " includes " + std::string(header) + ": " +
                        std::string(layer->folder) + "/ may not" +
                        (ours ? "" : " (our headers are named from the root)"));
    }
  }
  return found;
}

TEST(IncludeRule, HoldsInTheWholeTree) {
  const fs::path root = T2R_SOURCE_DIR;
  int sources = 0;
  for (const char* top : {"core", "kernels", "dist", "data", "launch"}) {
    ASSERT_TRUE(fs::is_directory(root / top)) << top;
    for (const auto& entry : fs::recursive_directory_iterator(root / top)) {
      const std::string ending = entry.path().extension().string();
      if (ending != ".h" && ending != ".cpp" && ending != ".cu" && ending != ".cuh") continue;
      std::ifstream file(entry.path());
      std::ostringstream text;
      text << file.rdbuf();
      ASSERT_TRUE(file) << entry.path();
      ++sources;
      const std::string path = fs::relative(entry.path(), root).generic_string();
      for (const std::string& violation : violations(path, text.str())) ADD_FAILURE() << violation;
    }
  }
  EXPECT_GT(sources, 50) << "the tree was not found";
}

TEST(IncludeRule, ReadsIncludesAsTheCompilerDoes) {
  EXPECT_EQ(includes_of("#include \"a/b.h\"\n  #  include <c>\n#\tinclude\"d.h\"  // why\n"
                        "// #include \"comment.h\"\n#define include \"x.h\"\n\n#\n#include\n"
                        "int include;\n#include <e/f.hpp>"),
            (std::vector<std::string>{"\"a/b.h", "<c", "\"d.h", "<e/f.hpp"}));
}

/// The rule itself, case by case: each of these must be found.
TEST(IncludeRule, CatchesEveryWrongInclude) {
  const struct {
    const char *path, *include;
  } wrong[] = {
      {"core/base/a.h", "\"kernels/norm.h\""},
      {"core/base/a.h", "<kernels/norm.h>"},
      {"core/base/a.h", "\"core/model/swap.h\""},
      {"core/base/a.h", "\"data/shard.h\""},
      {"kernels/a.cpp", "\"dist/comm.h\""},
      {"kernels/a.cpp", "\"core/model/swap.h\""},
      {"kernels/cuda/a.cu", "\"dist/comm.h\""},
      {"kernels/a.cpp", "\"data/shard.h\""},
      {"kernels/a.cpp", "<mpi.h>"},
      {"dist/a.cpp", "\"core/model/swap.h\""},
      {"dist/a.cpp", "\"data/shard.h\""},
      {"dist/a.cpp", "<hdf5.h>"},
      {"data/a.cpp", "\"kernels/norm.h\""},
      {"data/a.cpp", "\"dist/comm.h\""},
      {"data/a.cpp", "<mpi.h>"},
      {"core/model/a.cpp", "\"data/batch.h\""},
      {"core/model/a.cpp", "\"core/train/a.h\""},
      {"core/model/a.cpp", "<mpi.h>"},
      {"core/model/a.cpp", "\"launch/options.h\""},
      {"core/train/a.cpp", "\"launch/options.h\""},
      {"core/train/a.cpp", "<CLI/CLI.hpp>"},
      {"core/train/a.cpp", "<hdf5.h>"},
      {"core/train/a.cpp", "\"mpi.h\""},
      {"launch/a.cpp", "<mpi.h>"},
      {"launch/a.cpp", "<hdf5.h>"},
      {"kernels/a.cpp", "\"norm.h\""},
      {"kernels/a.cpp", "\"../dist/comm.h\""},
      {"core/train/a.cpp", "\"t2r_version.h\""},
      {"launch/a.cpp", "\"tests/kernels/testing.h\""},
      {"core/other/a.cpp", "<vector>"},
  };
  for (const auto& [path, include] : wrong)
    EXPECT_FALSE(violations(path, std::string("#include ") + include + "\n").empty())
        << path << " may include " << include;
}

TEST(IncludeRule, AllowsWhatTheLayersNeed) {
  const struct {
    const char *path, *include;
  } right[] = {
      {"core/base/a.h", "\"core/base/error.h\""},
      {"kernels/a.cpp", "\"core/base/arena.h\""},
      {"kernels/a.cpp", "<dnnl.hpp>"},
      {"dist/a.cpp", "\"kernels/elementwise.h\""},
      {"dist/a.cpp", "<mpi.h>"},
      {"data/a.cpp", "\"core/base/error.h\""},
      {"data/a.cpp", "<hdf5.h>"},
      {"core/model/a.cpp", "\"dist/mesh.h\""},
      {"core/train/a.cpp", "\"data/loader.h\""},
      {"core/train/a.cpp", "\"core/model/swap.h\""},
      {"launch/a.cpp", "\"core/train/trainer.h\""},
      {"launch/a.cpp", "<CLI/CLI.hpp>"},
      {"launch/a.cpp", "\"t2r_version.h\""},
  };
  for (const auto& [path, include] : right)
    EXPECT_TRUE(violations(path, std::string("#include ") + include + "\n").empty())
        << path << " may not include " << include;
}

}  // namespace
