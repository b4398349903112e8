/** Requests with what they mean when they fail: the project's four kinds of error. */
import type { QazynaError } from '../errors/error.ts';
import type { S3Requests } from './s3-client.ts';
import { isReset, type S3Action, S3Failure, s3Error } from './s3-errors.ts';

export class S3Calls {
  readonly requests: S3Requests;
  /** What the service has allowed: a refusal of it later is taken for a passing one. */
  readonly #worked = new Set<S3Action>();

  constructor(requests: S3Requests) {
    this.requests = requests;
  }

  /**
   * For requests that may be repeated. One whose connection broke is, once and at once: so looks a kept-alive connection that
   * the service has closed meanwhile, and it says nothing about the service.
   */
  async run<T>(action: S3Action, key: string, work: () => Promise<T>): Promise<T> {
    try {
      const result = await work().catch((error: unknown) => {
        if (error instanceof S3Failure && isReset(error)) return work();
        throw error;
      });
      this.worked(action);
      return result;
    } catch (error) {
      throw error instanceof S3Failure ? this.error(error, action, key) : error;
    }
  }

  worked(action: S3Action): void {
    this.#worked.add(action);
  }

  error(failure: S3Failure, action: S3Action, key: string): QazynaError {
    return s3Error(failure, { place: this.requests.place, action, key, workedBefore: this.#worked.has(action) });
  }
}
