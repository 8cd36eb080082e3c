// The emulated cuBLASLt must refuse what the real one refuses: each mistake is made here once, beside the same call done right.

#include <cublasLt.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace {

/// D (8 x 4) = op(A) (8 x 6) op(B) (6 x 4), of bf16, in columns; device memory has room for more.
class Cublaslt : public testing::Test {
 protected:
  static constexpr int m = 8, n = 4, k = 6;
  struct Call {
    cublasLtMatmulDescOpaque_t operation;
    cublasLtMatrixLayoutOpaque_t a, b, d;
    cublasLtMatmulPreferenceOpaque_t preference;
    void *a_data, *b_data, *d_data, *workspace;
    std::size_t workspace_bytes = 32 << 20;
    float beta = 0;
  };

  void SetUp() override {
    ASSERT_EQ(cublasLtCreate(&handle), CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    for (void** memory : {&a, &b, &d, &more}) ASSERT_EQ(cudaMalloc(memory, 4096), cudaSuccess);
    ASSERT_EQ(cudaMalloc(&workspace, 32 << 20), cudaSuccess);
    ASSERT_EQ(cudaHostAlloc(reinterpret_cast<void**>(&host), 4096, cudaHostAllocDefault), cudaSuccess);
    fill(a, 1), fill(b, 2), fill(d, 0), fill(more, 0);
  }
  void TearDown() override {
    EXPECT_EQ(cudaDeviceReset(), cudaSuccess);
    for (void* memory : {a, b, d, more, workspace}) EXPECT_EQ(cudaFree(memory), cudaSuccess);
    EXPECT_EQ(cudaFreeHost(host), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
    EXPECT_EQ(cublasLtDestroy(handle), CUBLAS_STATUS_SUCCESS);
  }

  void fill(void* memory, float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    for (int i = 0; i < 2048; ++i) host[i] = std::uint16_t(bits >> 16);
    EXPECT_EQ(cudaMemcpyAsync(memory, host, 4096, cudaMemcpyHostToDevice, stream), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  }
  std::vector<float> numbers(const void* memory, int count) {
    EXPECT_EQ(cudaMemcpyAsync(host, memory, 4096, cudaMemcpyDeviceToHost, stream), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    std::vector<float> values;
    for (int i = 0; i < count; ++i) {
      const std::uint32_t bits = std::uint32_t(host[i]) << 16;
      std::memcpy(&values.emplace_back(), &bits, sizeof bits);
    }
    return values;
  }

  static cublasStatus_t set(Call& call, cublasLtMatmulDescAttributes_t attribute, auto value) {
    return cublasLtMatmulDescSetAttribute(&call.operation, attribute, &value, sizeof value);
  }
  static cublasStatus_t set(Call& call, cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    return cublasLtMatmulPreferenceSetAttribute(&call.preference, attribute, &value, sizeof value);
  }
  static void set(cublasLtMatrixLayoutOpaque_t& layout, cublasLtMatrixLayoutAttribute_t attribute, auto value) {
    EXPECT_EQ(cublasLtMatrixLayoutSetAttribute(&layout, attribute, &value, sizeof value), CUBLAS_STATUS_SUCCESS);
  }
  Call call(cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT, cudaDataType_t out = CUDA_R_16BF) {
    Call made;
    made.a_data = a, made.b_data = b, made.d_data = d, made.workspace = workspace;
    EXPECT_EQ(cublasLtMatmulDescInit(&made.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(cublasLtMatrixLayoutInit(&made.a, CUDA_R_16BF, m, k, m), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(cublasLtMatrixLayoutInit(&made.b, CUDA_R_16BF, k, n, 8), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(cublasLtMatrixLayoutInit(&made.d, out, m, n, m), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(cublasLtMatmulPreferenceInit(&made.preference), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(set(made, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(set(made, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t(made.workspace_bytes)), CUBLAS_STATUS_SUCCESS);
    return made;
  }

  cublasStatus_t ask(Call& c) {
    offers.assign(32, {});
    int found = 0;
    auto status =
        cublasLtMatmulAlgoGetHeuristic(handle, &c.operation, &c.a, &c.b, &c.d, &c.d, &c.preference, 32, offers.data(), &found);
    offers.resize(std::size_t(found));
    return status;
  }
  cublasStatus_t run(Call& c, const cublasLtMatmulAlgo_t& algorithm) {
    const float alpha = 1;
    return cublasLtMatmul(handle, &c.operation, &alpha, c.a_data, &c.a, c.b_data, &c.b, &c.beta, c.d_data, &c.d, c.d_data, &c.d,
                          &algorithm, c.workspace, c.workspace_bytes, stream);
  }
  /// What it says to a call with the first algorithm that it offers for it.
  cublasStatus_t say(Call& c) {
    const cublasStatus_t status = ask(c);
    return status == CUBLAS_STATUS_SUCCESS ? run(c, offers[0].algo) : status;
  }

  cublasLtHandle_t handle = nullptr;
  cudaStream_t stream = nullptr;
  void *a = nullptr, *b = nullptr, *d = nullptr, *more = nullptr, *workspace = nullptr;
  std::uint16_t* host = nullptr;
  std::vector<cublasLtMatmulHeuristicResult_t> offers;
};

TEST_F(Cublaslt, ColumnsLieLeadingDimensionsApart) {
  Call c = call();
  set(c.d, CUBLASLT_MATRIX_LAYOUT_LD, std::int64_t(16));
  fill(d, 5);
  EXPECT_EQ(say(c), CUBLAS_STATUS_SUCCESS);
  auto values = numbers(d, 16 * n);
  for (int i = 0; i < 16 * n; ++i) EXPECT_EQ(values[std::size_t(i)], i % 16 < m ? 12 : 5) << i;
  c.beta = 2;
  EXPECT_EQ(say(c), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(numbers(d, 1)[0], 36);
}

TEST_F(Cublaslt, AlgorithmsFollowThePreference) {
  Call c = call();
  EXPECT_EQ(ask(c), CUBLAS_STATUS_SUCCESS);
  const auto all = offers;
  EXPECT_GT(all.size(), 3u);
  for (auto& offer : all) {
    fill(d, NAN);
    EXPECT_EQ(run(c, offer.algo), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(numbers(d, m * n), std::vector<float>(m * n, 12));
  }
  auto counted = [&](auto attribute, auto value) {
    Call other = call();
    EXPECT_EQ(set(other, attribute, value), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(ask(other), CUBLAS_STATUS_SUCCESS);
    return offers.size();
  };
  EXPECT_LT(counted(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t(0)), all.size());
  EXPECT_LT(counted(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, std::uint32_t(8)), all.size());
  EXPECT_LT(counted(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)),
            all.size());
}

TEST_F(Cublaslt, WhatDoesNotFitIsRefused) {
  auto refused = [&](const char* what, cublasStatus_t status, const std::function<void(Call&)>& spoil,
                     cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT) {
    SCOPED_TRACE(what);
    Call c = call(epilogue);
    set(c, CUBLASLT_MATMUL_DESC_BIAS_POINTER, more);
    set(c, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, static_cast<void*>(static_cast<char*>(more) + 1024));
    set(c, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, std::int64_t(m));
    EXPECT_EQ(say(c), CUBLAS_STATUS_SUCCESS);
    spoil(c);
    EXPECT_EQ(say(c), status);
  };
  const auto invalid = CUBLAS_STATUS_INVALID_VALUE, unsupported = CUBLAS_STATUS_NOT_SUPPORTED;
  auto layout = [](cublasLtMatrixLayoutOpaque_t& of, cudaDataType_t type, int rows, int columns, int ld) {
    EXPECT_EQ(cublasLtMatrixLayoutInit(&of, type, std::uint64_t(rows), std::uint64_t(columns), ld), CUBLAS_STATUS_SUCCESS);
  };
  refused("an address that is aligned less than was said", unsupported,
          [](Call& c) { c.a_data = static_cast<char*>(c.a_data) + 2; });
  refused("inner sizes that differ", invalid, [&](Call& c) { layout(c.b, CUDA_R_16BF, k + 1, n, 8); });
  refused("a leading dimension below the rows", invalid, [&](Call& c) { layout(c.a, CUDA_R_16BF, m, k, m - 1); });
  refused("batches that differ", invalid, [&](Call& c) { set(c.a, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, std::int32_t(2)); });
  refused("inputs of two types", unsupported, [&](Call& c) { layout(c.a, CUDA_R_16F, m, k, m); });
  refused("another result of 16 bits", unsupported, [&](Call& c) { layout(c.d, CUDA_R_16F, m, n, m); });
  refused("no workspace", invalid, [](Call& c) { c.workspace_bytes = 0; });
  refused("a workspace that is not aligned", invalid, [](Call& c) { c.workspace = static_cast<char*>(c.workspace) + 128; });
  refused(
      "no bias", invalid, [](Call& c) { set(c, CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<void*>(nullptr)); },
      CUBLASLT_EPILOGUE_BIAS);
  refused(
      "no place for the gradient", invalid,
      [](Call& c) { set(c, CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<void*>(nullptr)); }, CUBLASLT_EPILOGUE_BGRADB);
  refused(
      "no auxiliary matrix", invalid,
      [](Call& c) { set(c, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, static_cast<void*>(nullptr)); }, CUBLASLT_EPILOGUE_DGELU);
  for (int ld : {0, 4, 12})
    refused(
        "an auxiliary matrix in wrong columns", invalid,
        [=](Call& c) { set(c, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, std::int64_t(ld)); }, CUBLASLT_EPILOGUE_GELU_AUX_BIAS);
  Call c = call();
  EXPECT_EQ(set(c, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, std::int32_t(8)), invalid) << "an attribute of another size";
  EXPECT_EQ(ask(c), CUBLAS_STATUS_SUCCESS);
  auto damaged = offers[0].algo;
  damaged.data[1] = 99;
  EXPECT_EQ(run(c, damaged), invalid);
}

TEST_F(Cublaslt, WhatLeavesItsMemoryFails) {
  Call c = call();
  c.a_data = static_cast<char*>(a) + 4096 - 64;
  EXPECT_EQ(ask(c), CUBLAS_STATUS_SUCCESS);
  (void)run(c, offers[0].algo);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorLaunchFailure);
  EXPECT_NE(std::string(cudaGetErrorString(cudaErrorLaunchFailure)).find("A reaches beyond its allocation"), std::string::npos);
}

TEST_F(Cublaslt, AGraphKeepsWhatWasGiven) {
  Call c = call(CUBLASLT_EPILOGUE_BIAS);
  set(c, CUBLASLT_MATMUL_DESC_BIAS_POINTER, more);
  fill(more, 3);
  EXPECT_EQ(ask(c), CUBLAS_STATUS_SUCCESS);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_EQ(run(c, offers[0].algo), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  set(c, CUBLASLT_MATMUL_DESC_BIAS_POINTER, a);
  EXPECT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  EXPECT_EQ(numbers(d, 1)[0], 0) << "captured, not run";
  EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  EXPECT_EQ(numbers(d, m * n), std::vector<float>(m * n, 15));
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
}

}  // namespace
