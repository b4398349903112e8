/** Large objects: sent in parts, two at a time, and made an object by one last conditional request. */
import { crashPoint } from '../errors/crash-points.ts';
import { bodyOf, partsBetween } from './s3-body.ts';
import type { S3Requests } from './s3-client.ts';
import type { Condition, S3Body, UploadedPart } from './s3-types.ts';

/** The bound: what is larger is worth the three requests more. */
export const multipartAboveBytes = 16 * 1024 * 1024;
/** S3 User Guide, "Amazon S3 multipart upload limits": 5 MiB to 5 GiB, at most 10,000 of them. */
const partBytesMin = 8 * 1024 * 1024;
const partsMax = 10_000;
const partsAtOnce = 2;

export interface Upload {
  key: string;
  body: S3Body;
  metadata: Record<string, string>;
  condition: Condition;
  /** Asked to be locked as what is put once is, whatever its key says. */
  locked?: true;
}

/** Resolves with the etag. On any failure the upload is given up, so that nothing of it can land later; rejects with the first failure. */
export async function putInParts(requests: S3Requests, upload: Upload): Promise<string> {
  const { key, body, metadata, condition, locked } = upload;
  const uploadId = await requests.beginUpload(key, metadata, locked);
  try {
    const parts = await sendParts(requests, key, uploadId, body);
    const etag = await requests.endUpload(key, uploadId, parts, condition, body.sizeBytes);
    crashPoint('s3:after-upload');
    return etag;
  } catch (error) {
    // Only bytes without a name stay where this fails too: retention gives them up after a day (s3-leftovers.ts).
    await requests.abortUpload(key, uploadId).catch(() => undefined);
    throw error;
  }
}

async function sendParts(requests: S3Requests, key: string, uploadId: string, body: S3Body): Promise<UploadedPart[]> {
  const partBytes = Math.max(partBytesMin, Math.ceil(body.sizeBytes / partsMax));
  const count = Math.ceil(body.sizeBytes / partBytes);
  const sent: UploadedPart[] = [];
  let next = 0;
  let failed = false;
  const sender = async () => {
    while (next < count && !failed) {
      const index = next;
      next += 1;
      try {
        const part = await bodyOf(partsBetween(body.parts, index * partBytes, (index + 1) * partBytes));
        sent[index] = await requests.putPart(key, uploadId, index + 1, part);
        crashPoint('s3:after-part');
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const senders = await Promise.allSettled(Array.from({ length: partsAtOnce }, sender));
  for (const each of senders) if (each.status === 'rejected') throw each.reason;
  return sent;
}
