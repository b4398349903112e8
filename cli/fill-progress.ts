import type { Progress, ProgressStep } from '../core/progress/progress.ts';

/** One step at a time, each with its own line. */
export function fillProgress(
  progress: Progress,
): (fill: { step: string; doneBytes: number; totalBytes: number }) => void {
  let present: { name: string; line: ProgressStep } | null = null;
  return ({ step, doneBytes, totalBytes }) => {
    if (present?.name !== step)
      present = { name: step, line: progress.step(step, { unit: 'bytes', total: totalBytes }) };
    present.line.set(doneBytes);
    if (doneBytes >= totalBytes) {
      present.line.end();
      present = null;
    }
  };
}
