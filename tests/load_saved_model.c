/* Runs a SavedModel through TensorFlow's C interface, in the session of a server.

     load_saved_model FOLDER FEEDS [NAME INDEX TYPE SHAPE FILE]... [NAME INDEX FILE]...

   FEEDS is the number of groups of five. NAME is an operation of the graph, TYPE a
   number of TF_DataType, SHAPE is like 2,8,8,1 (- of a scalar), FILE holds the bytes
   of a tensor. Prints the shape of every fetch, one a line. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tensorflow/c/c_api.h>

enum { MAX_TENSORS = 64, MAX_RANK = 16 };

static void fail(const char* what, const char* why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static void check(TF_Status* status) {
  static const char* names[] = {
      "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED",
      "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
      "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL",
      "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"};
  if (TF_GetCode(status) != TF_OK) fail(names[TF_GetCode(status)], TF_Message(status));
}

static FILE* open_file(const char* path, const char* mode) {
  FILE* file = fopen(path, mode);
  if (!file) fail(path, "cannot be opened");
  return file;
}

static TF_Tensor* read_tensor(int type, const char* shape, const char* path) {
  int64_t dims[MAX_RANK];
  int rank = 0;
  size_t bytes = TF_DataTypeSize((TF_DataType)type);
  while (*shape && strcmp(shape, "-")) {
    char* end;
    if (rank == MAX_RANK) fail(path, "has too many dimensions");
    dims[rank] = strtoll(shape, &end, 10);
    bytes *= dims[rank++];
    shape = *end == ',' ? end + 1 : end;
  }
  TF_Tensor* tensor = TF_AllocateTensor((TF_DataType)type, dims, rank, bytes);
  FILE* file = open_file(path, "rb");
  if (fread(TF_TensorData(tensor), 1, bytes, file) != bytes) fail(path, "is short");
  fclose(file);
  return tensor;
}

static void write_tensor(const TF_Tensor* tensor, const char* path) {
  size_t bytes = TF_TensorByteSize(tensor);
  FILE* file = open_file(path, "wb");
  if (fwrite(TF_TensorData(tensor), 1, bytes, file) != bytes) fail(path, "is short");
  fclose(file);
  for (int i = 0; i < TF_NumDims(tensor); i++)
    printf("%lld ", (long long)TF_Dim(tensor, i));
  printf("\n");
}

static TF_Output output_of(TF_Graph* graph, char** name_and_index) {
  TF_Operation* operation = TF_GraphOperationByName(graph, name_and_index[0]);
  if (!operation) fail(name_and_index[0], "is no operation of the graph");
  return (TF_Output){operation, atoi(name_and_index[1])};
}

int main(int argc, char** argv) {
  if (argc < 3) fail(argv[0], "expected FOLDER FEEDS ...");
  int num_feeds = atoi(argv[2]);
  int num_fetches = (argc - 3 - 5 * num_feeds) / 3;
  if (argc != 3 + 5 * num_feeds + 3 * num_fetches) fail(argv[0], "incomplete group");
  if (num_feeds > MAX_TENSORS || num_fetches > MAX_TENSORS) fail(argv[0], "too many");

  TF_Status* status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* tags[] = {"serve"};
  TF_Session* session = TF_LoadSessionFromSavedModel(
      options, NULL, argv[1], tags, 1, graph, NULL, status);
  check(status);

  TF_Output feeds[MAX_TENSORS], fetches[MAX_TENSORS];
  TF_Tensor *inputs[MAX_TENSORS], *outputs[MAX_TENSORS];
  char** feed = argv + 3;
  for (int i = 0; i < num_feeds; i++, feed += 5) {
    feeds[i] = output_of(graph, feed);
    inputs[i] = read_tensor(atoi(feed[2]), feed[3], feed[4]);
  }
  char** fetch = feed;
  for (int i = 0; i < num_fetches; i++) fetches[i] = output_of(graph, fetch + 3 * i);

  TF_SessionRun(session, NULL, feeds, inputs, num_feeds, fetches, outputs, num_fetches,
                NULL, 0, NULL, status);
  check(status);
  for (int i = 0; i < num_fetches; i++) write_tensor(outputs[i], fetch[3 * i + 2]);

  for (int i = 0; i < num_feeds; i++) TF_DeleteTensor(inputs[i]);
  for (int i = 0; i < num_fetches; i++) TF_DeleteTensor(outputs[i]);
  TF_CloseSession(session, status);
  check(status);
  TF_DeleteSession(session, status);
  check(status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
