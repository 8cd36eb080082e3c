#include "kernels/attention_cudnn.h"

#include <cudnn_frontend.h>

#include <cstring>
#include <unordered_map>

#include "kernels/graph_check.h"
#include "kernels/vendor_cuda.h"

namespace lockstep {

/// One pass of attention as a finished graph of cuDNN.
struct AttentionPlan {
  cudnn_frontend::graph::Graph graph;
  std::int64_t workspace_bytes = 0;
};

}  // namespace lockstep

namespace lockstep::kernels::cuda {
namespace {

namespace fe = cudnn_frontend;
using std::int64_t;
using Attributes = std::shared_ptr<fe::graph::Tensor_attributes>;

/// The names of the arrays in a graph.
enum Name : int64_t { q_name = 1, k_name, v_name, y_name, log_sum_name, dy_name, dq_name, dk_name, dv_name };

/// (batch, heads, length, size) of one part of packed memory, or of y.
Attributes tensor(fe::graph::Graph& graph, const AttentionShape& s, Name name, int64_t parts) {
  return graph.tensor(fe::graph::Tensor_attributes()
                          .set_uid(name)
                          .set_dim({s.batch, s.heads, s.length, s.size})
                          .set_stride({s.length * parts * s.width(), s.size, parts * s.width(), 1}));
}
void output(const Attributes& t, const AttentionShape& s, Name name, int64_t parts) {
  t->set_output(true)
      .set_uid(name)
      .set_dim({s.batch, s.heads, s.length, s.size})
      .set_stride({s.length * parts * s.width(), s.size, parts * s.width(), 1});
}

/// A pass as cuDNN's frontend knows it.
void describe(fe::graph::Graph& graph, const AttentionShape& s, DType dtype, bool backward) {
  graph.set_io_data_type(dtype == DType::bf16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  Attributes q = tensor(graph, s, q_name, 3), k = tensor(graph, s, k_name, 3), v = tensor(graph, s, v_name, 3);
  if (!backward) {
    auto [y, log_sum] = graph.sdpa(
        q, k, v, fe::graph::SDPA_attributes().set_generate_stats(true).set_attn_scale(s.scale).set_causal_mask(s.causal));
    output(y, s, y_name, 1);
    log_sum->set_output(true).set_uid(log_sum_name).set_data_type(fe::DataType_t::FLOAT);
  } else {
    Attributes y = tensor(graph, s, y_name, 1), dy = tensor(graph, s, dy_name, 1);
    Attributes log_sum = graph.tensor(fe::graph::Tensor_attributes()
                                          .set_uid(log_sum_name)
                                          .set_dim({s.batch, s.heads, s.length, 1})
                                          .set_stride({s.heads * s.length, s.length, 1, 1})
                                          .set_data_type(fe::DataType_t::FLOAT));
    // The same bits each run: without it the queries' gradients are added in the order in which blocks end.
    auto [dq, dk, dv] = graph.sdpa_backward(
        q, k, v, y, dy, log_sum,
        fe::graph::SDPA_backward_attributes().set_attn_scale(s.scale).set_causal_mask(s.causal).set_deterministic_algorithm(
            true));
    output(dq, s, dq_name, 3);
    output(dk, s, dk_name, 3);
    output(dv, s, dv_name, 3);
  }
}

/// The plan that cuDNN likes best, or nothing when it has none.
std::shared_ptr<AttentionPlan> make_plan(cudnnHandle_t cudnn, const AttentionShape& s, DType dtype, bool backward) {
  auto plan = std::make_shared<AttentionPlan>();
  fe::graph::Graph& graph = plan->graph;
  describe(graph, s, dtype, backward);
  if (graph.build(cudnn, {fe::HeurMode_t::A}).is_bad() || graph.get_workspace_size(plan->workspace_bytes).is_bad())
    return nullptr;
  return plan;
}

/// Runs a pass; false when cuDNN has none. Part i of packed memory begins i * width elements behind its first one.
bool run(const Queue& queue, const AttentionShape& s, bool backward, View qkv, View y, View log_sum, View dqkv, View dy) {
  if (!is_half(qkv.dtype) || s.dropout > 0 || s.size % 8 != 0 || s.size > 256) return false;
  if (alignment_of({qkv.data, y.data, log_sum.data, dqkv.data, dy.data}) < 16) return false;
  CudaLibraries& libraries = *queue.cuda;
  std::int32_t scale_bits = 0;
  std::memcpy(&scale_bits, &s.scale, sizeof scale_bits);
  PlanKey key = {backward, int64_t(qkv.dtype), s.batch, s.length, s.heads, s.size, s.causal, scale_bits};
  auto& plan = libraries.attentions.get(key, [&] { return make_plan(libraries.cudnn(), s, qkv.dtype, backward); });
  if (!plan) return false;
  auto part = [&](View packed, int64_t i) { return packed ? packed.slice(i * s.width(), 0).data : nullptr; };
  std::unordered_map<int64_t, void*> data = {
      {q_name, part(qkv, 0)}, {k_name, part(qkv, 1)}, {v_name, part(qkv, 2)}, {y_name, y.data}, {log_sum_name, log_sum.data}};
  if (backward) {
    data[dy_name] = dy.data;
    data[dq_name] = part(dqkv, 0), data[dk_name] = part(dqkv, 1), data[dv_name] = part(dqkv, 2);
  }
  auto status =
      plan->graph.execute(libraries.cudnn(), data, libraries.library_memory.at_least(std::size_t(plan->workspace_bytes)));
  require(Exit::internal, status.is_good(), "attention: cuDNN: {}", status.get_message());
  return true;
}

}  // namespace

bool cudnn_attention(const Queue& queue, const AttentionShape& s, View y, View log_sum, View qkv) {
  return run(queue, s, false, qkv, y, log_sum, {}, {});
}
bool cudnn_attention_backward(const Queue& queue, const AttentionShape& s, View dqkv, View dy, View y, View log_sum, View qkv) {
  return run(queue, s, true, qkv, y, log_sum, dqkv, dy);
}

GraphCheck check_attention(const std::string& properties, const AttentionShape& s, DType dtype, bool backward) {
  auto device = std::make_shared<fe::DeviceProperties>();
  fe::graph::Graph graph;
  GraphCheck found;
  auto good = [&](fe::error_t status) {
    if (status.is_bad()) found.refusal = status.get_message();
    return status.is_good();
  };
  if (!good(device->deserialize({properties.begin(), properties.end()}))) return found;
  graph.set_device_properties(device);
  describe(graph, s, dtype, backward);
  if (!good(graph.validate()) || !good(graph.build_operation_graph()) || !good(graph.create_execution_plans({fe::HeurMode_t::A})))
    return found;
  found.offered = int(graph.get_execution_plan_count());
  if (good(graph.check_support())) found.acceptable = found.offered;
  return found;
}

}  // namespace lockstep::kernels::cuda
