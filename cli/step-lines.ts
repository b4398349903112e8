/** A restore's own steps as progress lines, one after the other. */
import type { Progress, ProgressStep } from '../core/progress/progress.ts';
import type { RestoreProgress } from '../restore-tool/restore/types.ts';

export class StepLines {
  readonly #progress: Progress;
  #name = '';
  #step: ProgressStep | null = null;

  constructor(progress: Progress) {
    this.#progress = progress;
  }

  show({ step, unit, done, total }: RestoreProgress): void {
    if (step !== this.#name) this.#step = this.#progress.step(step, { unit });
    this.#name = step;
    if (total !== null) this.#step?.setTotal(total);
    this.#step?.set(done);
  }

  end(): void {
    this.#step?.end();
  }
}
