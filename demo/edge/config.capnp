# workerd serve config.capnp: what esbuild has put into out/ (README.md), at http://127.0.0.1:8787.
using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [(name = "tales", worker = .tales)],
  sockets = [(name = "http", address = "127.0.0.1:8787", http = (), service = "tales")],
);

const tales :Workerd.Worker = (
  compatibilityDate = "2026-11-01",
  compatibilityFlags = ["enable_request_signal"],
  modules = [
    (name = "worker.js", esModule = embed "out/worker.js"),
    (name = "simd.wasm", wasm = embed "out/simd.wasm"),
    (name = "relaxed.wasm", wasm = embed "out/relaxed.wasm"),
    (name = "relaxed_i16.wasm", wasm = embed "out/relaxed_i16.wasm"),
    (name = "tales.gguf", data = embed "out/tales.gguf"),
  ],
);
