// llm.c's CPU program behind turns (see turns.py): FOLDER ROWS LENGTH RATE. Compile with -I<checkout of llm.c>.
#define TESTING
#include "train_gpt2.c"

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int* read_tokens(const char* folder, const char* name, size_t count) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE* file = fopenCheck(path, "rb");
  int* tokens = mallocCheck(count * sizeof(int));
  freadCheck(tokens, sizeof(int), count, file);
  fcloseCheck(file);
  return tokens;
}

int main(int argc, char** argv) {
  if (argc != 5) return 64;
  const char* folder = argv[1];
  size_t rows = (size_t)atoi(argv[2]), length = (size_t)atoi(argv[3]), batches = 4, step = 0;
  float rate = (float)atof(argv[4]);
  char path[4096], order[256];
  snprintf(path, sizeof path, "%s/llmc.bin", folder);
  GPT2 model;
  gpt2_build_from_checkpoint(&model, path);
  int* inputs = read_tokens(folder, "inputs.bin", batches * rows * length);
  int* targets = read_tokens(folder, "targets.bin", batches * rows * length);
  snprintf(path, sizeof path, "%s/orders.llm.c.0", folder);
  FILE* orders = fopenCheck(path, "r");
  snprintf(path, sizeof path, "%s/answers", folder);
  while (fgets(order, sizeof order, orders)) {
    int steps = atoi(order);
    char losses[4096] = "", times[4096] = "";
    for (int i = 0; i < steps; ++i, ++step) {
      double begun = seconds_now();
      size_t at = step % batches * rows * length;
      gpt2_forward(&model, inputs + at, targets + at, rows, length);
      gpt2_zero_grad(&model);
      gpt2_backward(&model);
      gpt2_update(&model, rate, 0.9f, 0.999f, 1e-8f, 0.0f, (int)step + 1);
      sprintf(losses + strlen(losses), "%s%.7f", i ? ", " : "", (double)model.mean_loss);
      sprintf(times + strlen(times), "%s%.6f", i ? ", " : "", seconds_now() - begun);
    }
    FILE* answers = fopenCheck(path, "w");
    fprintf(answers, "{\"losses\": [%s], \"seconds\": [%s], \"peak_bytes\": 0, \"bytes_before\": 0}\n", losses, times);
    fcloseCheck(answers);
  }
  return 0;
}
