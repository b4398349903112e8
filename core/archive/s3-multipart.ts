/** Large objects: sent in parts, two at a time, and made an object by one last conditional request. */
import { crashPoint } from '../errors/crash-points.ts';
import { retrying } from '../errors/retry.ts';
import { silentLogger } from '../logging/logger.ts';
import { bodyOf, partsBetween } from './s3-body.ts';
import type { S3Calls } from './s3-calls.ts';
import type { Condition, S3Body, UploadedPart } from './s3-types.ts';

/** The bound: what is larger is worth the three requests more. */
export const multipartAboveBytes = 16 * 1024 * 1024;
/** S3 User Guide, "Amazon S3 multipart upload limits": 5 MiB to 5 GiB, at most 10,000 of them. */
const partBytesMin = 8 * 1024 * 1024;
const partsMax = 10_000;
const partsAtOnce = 2;
/** A part may be sent again, so that a passing fault does not throw away what was sent before it. Waits between: up to 3 s in all. */
const partTriesMax = 5;
/** Not again after these: the upload is gone, or the service is silent for longer than is waited for. */
const hopeless: readonly unknown[] = ['NoSuchUpload', 'Deadline'];

export interface Upload {
  key: string;
  body: S3Body;
  metadata: Record<string, string>;
  condition: Condition;
  /** Asked to be locked as what is put once is, whatever its key says. */
  locked?: true;
}

/**
 * Resolves with the etag. On any failure the upload is given up, so that nothing of it can land later. Rejects with an
 * `S3Failure` when its beginning or its end failed; with one of the project's errors when a part did: then nothing has landed.
 */
export async function putInParts(calls: S3Calls, upload: Upload): Promise<string> {
  const { requests } = calls;
  const { key, body, metadata, condition, locked } = upload;
  const uploadId = await requests.beginUpload(key, metadata, locked);
  try {
    const parts = await sendParts(calls, key, uploadId, body);
    const etag = await requests.endUpload(key, uploadId, parts, condition, body.sizeBytes);
    crashPoint('s3:after-upload');
    return etag;
  } catch (error) {
    // Only bytes without a name stay where this fails too: retention gives them up after a day (s3-leftovers.ts).
    await requests.abortUpload(key, uploadId).catch(() => undefined);
    throw error;
  }
}

async function sendParts(calls: S3Calls, key: string, uploadId: string, body: S3Body): Promise<UploadedPart[]> {
  const partBytes = Math.max(partBytesMin, Math.ceil(body.sizeBytes / partsMax));
  const count = Math.ceil(body.sizeBytes / partBytes);
  const sent: UploadedPart[] = [];
  const stop = new AbortController();
  const { signal } = stop;
  let next = 0;
  const sender = async () => {
    while (next < count && !signal.aborted) {
      const index = next;
      next += 1;
      try {
        const part = await bodyOf(partsBetween(body.parts, index * partBytes, (index + 1) * partBytes));
        let tries = 0;
        const send = () => {
          tries += 1;
          return calls.run('s3:PutObject', key, () => calls.requests.putPart(key, uploadId, index + 1, part));
        };
        sent[index] = await retrying(`part ${index + 1} of ${key}`, send, {
          signal,
          deadlineMs: Number.POSITIVE_INFINITY,
          // Whoever put the object hears of the last failure, if any.
          logger: silentLogger(),
          askedMs: ({ details }) => (tries === partTriesMax || hopeless.includes(details.code) ? null : 0),
        });
        crashPoint('s3:after-part');
      } catch (error) {
        stop.abort(error);
        throw error;
      }
    }
  };
  await Promise.allSettled(Array.from({ length: partsAtOnce }, sender));
  signal.throwIfAborted();
  return sent;
}
