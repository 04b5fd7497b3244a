from nanograd.runtime import events

ROWS = events.JobProgress(
    command="predict", part=2, parts=10, row=2000, rows=10_000, rows_per_s=412.4, quarantined=3,
    time_s=4.8, left_s=19.4, complete=False,
)  # fmt: skip
ROUNDS = events.TrainingProgress(
    epoch=4, epochs=10, round=412, rounds=1060, image=240_000, rounds_per_s=104.2,
    images_per_s=53_120, loss=0.08123, val_accuracy=0.9871, left_s=6.2,
    workers={"0": events.WorkerState.WORKING, "1": events.WorkerState.STARTING}, complete=False,
)  # fmt: skip
METRICS = events.EpochMetrics(
    epoch=3, round=318, loss=0.0912, val_accuracy=0.9852, learning_rate=0.3, train_s=3.1,
    images_per_s=52_000,
)  # fmt: skip
EPOCH = events.EpochFinished(metrics=METRICS)
