"""openvino-genai's continuous batching in a process of its own: `genai_worker.py IR key=value …`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] - else OpenVINO reports home

import numpy as np
import openvino as ov
import openvino_genai as genai
from workload import Round, Watch, serve, work


def main() -> None:
    given = dict(pair.split("=", 1) for pair in sys.argv[2:])
    schedule = genai.SchedulerConfig()
    if "step_tokens" in given:
        schedule.max_num_batched_tokens = int(given["step_tokens"])
    schedule.cache_size = 1
    schedule.enable_prefix_caching = True
    properties = {"INFERENCE_PRECISION_HINT": given.get("compute", "f32"), "KV_CACHE_PRECISION": given.get("kv", "u8")}
    if given.get("pinning") == "no":
        properties["ENABLE_CPU_PINNING"] = False
    began = time.perf_counter()
    pipeline = genai.ContinuousBatchingPipeline(sys.argv[1], schedule, "CPU", properties)
    load_s = time.perf_counter() - began
    number = 0

    def run(wanted: Round) -> dict[str, float]:
        nonlocal number
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos = wanted.tokens_out, True
        config.do_sample = wanted.mode == "sampled"
        if config.do_sample:
            config.temperature, config.top_k, config.top_p = 0.8, 50, 0.9
        watch = Watch()
        waiting = list(enumerate(wanted.prompts()))
        running: list[tuple[int, object]] = []
        due = watch.began
        while waiting or pipeline.has_non_finished_requests():
            while waiting and time.perf_counter() >= due:
                stream, prompt = waiting.pop(0)
                due += wanted.interval_s
                watch.arrive(stream)
                ids = ov.Tensor(np.array([prompt], np.int64))
                running.append((stream, pipeline.add_request(number, ids, config)))
                number += 1
            if not pipeline.has_non_finished_requests():
                time.sleep(max(0.0, due - time.perf_counter()))
                continue
            pipeline.step()
            for stream, handle in running:
                if handle.can_read():
                    for output in handle.read().values():
                        watch.token(stream, len(output.generated_ids))
                        work(wanted.work_us)
        return watch.figures()

    run(Round(1, 8, 1))
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
    serve(run, {"load_s": load_s, "rss_mib": rss})


main()
