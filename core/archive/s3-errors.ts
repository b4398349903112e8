/**
 * What went wrong between this host and an S3 service, sorted into the four kinds. Error codes are those of the Amazon S3
 * API Reference, "Error responses"; network and TLS codes those of Node.
 */
import { configurationError, type QazynaError, transientError } from '../errors/error.ts';
import type { S3Place } from './s3-place.ts';
import { errorCode, errorText } from './store-error.ts';

/** A permission of an S3 policy (Service Authorization Reference, "Amazon S3"). */
export type S3Action =
  | 's3:PutObject'
  | 's3:GetObject'
  | 's3:ListBucket'
  | 's3:ListBucketVersions'
  | 's3:GetObjectVersion'
  | 's3:DeleteObject'
  | 's3:AbortMultipartUpload'
  | 's3:ListBucketMultipartUploads'
  | 's3:GetBucketVersioning'
  | 's3:DeleteObjectVersion';

/** One request that failed, before it is known what that means to its caller. */
export class S3Failure extends Error {
  /** S3's error code, or Node's; `Deadline` when the time was over. */
  readonly code: string;
  /** HTTP status; 0 when no answer came. */
  readonly status: number;
  /** Where the bucket is, when the service says so. */
  readonly region: string | null;

  constructor(code: string, status: number, text: string, region: string | null = null) {
    super(text);
    this.name = 'S3Failure';
    this.code = code;
    this.status = status;
    this.region = region;
  }

  /** The request was not carried out, and never will be: it did not leave this host, or the service declined it. */
  get isCertain(): boolean {
    if (this.status === 0) return unsent.has(this.code) || certificate.test(this.code) || noKeys.test(this.code);
    if (this.status === 501) return true;
    return this.status < 500 && this.status >= 300 && !passing.has(this.code) && ![408, 409].includes(this.status);
  }
}

const unsent = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'EPROTO', 'NoRegion']);
const certificate = /^(CERT_|ERR_TLS_CERT|DEPTH_ZERO_SELF|SELF_SIGNED|UNABLE_TO_(VERIFY|GET)_)/;
const noKeys = /^(CredentialsProviderError|TokenProviderError)$/;
const keysRefused = new Set(['InvalidAccessKeyId', 'SignatureDoesNotMatch', 'InvalidToken', 'InvalidClientTokenId']);
const keysExpired = new Set(['ExpiredToken', 'ExpiredTokenException', 'TokenRefreshRequired', 'RequestExpired']);
/** Answers below 500 that say nothing about the request itself. */
const passing = new Set([
  'RequestTimeout',
  'RequestTimeTooSkewed',
  'SlowDown',
  'Throttling',
  'ThrottlingException',
  'TooManyRequests',
  'TooManyRequestsException',
  'OperationAborted',
  'ConditionalRequestConflict',
  'BadDigest',
  'XAmzContentSHA256Mismatch',
  'TemporaryRedirect',
  'InvalidPart',
  'NoSuchUpload',
]);
const full = new Set(['QuotaExceeded', 'XMinioStorageFull', 'InsufficientStorage']);

/** From whatever the SDK or Node threw. Keeps no request, hence no signature. */
export function failureOf(error: unknown, isLate: boolean): S3Failure {
  if (error instanceof S3Failure) return error;
  if (isLate) return new S3Failure('Deadline', 0, 'no answer within its deadline');
  const status = numberAt(error, '$metadata', 'httpStatusCode') ?? numberAt(error, '$response', 'statusCode') ?? 0;
  const name = textAt(error, 'name') ?? '';
  const text = errorText(error);
  if (status > 0) {
    // An answer without a body, or one that is not S3's (a proxy's page): then the status is all there is.
    const isCode = /^[A-Z][A-Za-z0-9]{3,}$/.test(name) && !/^(Error|SyntaxError|TypeError|UnknownError)$/.test(name);
    const region = textAt(error, '$response', 'headers', 'x-amz-bucket-region') ?? textAt(error, 'Region');
    return new S3Failure(isCode ? name : `HTTP ${status}`, status, text, region);
  }
  if (/^Region is missing/.test(text)) return new S3Failure('NoRegion', 0, text);
  const code = errorCode(error);
  // The SDK calls a reset connection a time-out too (node-http-handler, constants.js): only the code tells them apart.
  if (name === 'TimeoutError' && code === '')
    return new S3Failure('EHOSTUNREACH', 0, 'no connection within its deadline');
  return new S3Failure(noKeys.test(name) ? name : code || name, 0, text);
}

export function areKeysRefused({ code }: S3Failure): boolean {
  return keysRefused.has(code) || keysExpired.has(code);
}

/** Whether the connection broke before an answer came: also how a kept-alive connection looks that the server has left. */
export function isReset({ code, status }: S3Failure): boolean {
  return status === 0 && ['ECONNRESET', 'EPIPE', 'ECONNABORTED'].includes(code);
}

export interface FailedRequest {
  place: S3Place;
  action: S3Action;
  key: string;
  /** The service allowed this action before: a refusal now is taken for a passing one (keys or policies being changed). */
  workedBefore: boolean;
}

/** The error to throw. Neither keys nor signatures are in it. */
export function s3Error(failure: S3Failure, request: FailedRequest): QazynaError {
  const { place, action, key } = request;
  const details = { key, action, code: failure.code, status: failure.status };
  const options = { cause: failure, details };
  return (
    placeError(failure, request, options) ??
    permissionError(failure, request, options) ??
    passingError(failure, request, options) ??
    configurationError(
      'QZ2422',
      `${place.name} refused ${action} of ${key}: ${failure.code} (${failure.status}), ${failure.message.slice(0, 200)}.`,
      'The words are the service’s own. Where it does not know checksums, checksums=when_required may help; where it knows no bucket host names, path_style=true.',
      options,
    )
  );
}

type Options = { cause: S3Failure; details: Record<string, unknown> };

/** The bucket, its region, the way to it. */
function placeError({ code, status, region, message }: S3Failure, { place, action }: FailedRequest, options: Options) {
  const host = place.endpoint?.host ?? 'AWS';
  if (code === 'NoSuchBucket') {
    const hint = 'Make the bucket, or check its name and the endpoint; qazyna never makes buckets.';
    return configurationError('QZ2414', `There is no bucket ${place.bucket} at ${host}.`, hint, options);
  }
  // A HEAD has no body that says more than 400.
  const isOther = status === 400 && region !== null && place.region !== null && region !== place.region;
  // Amazon S3 User Guide, "Locking objects with Object Lock"; versitygw, s3err. SeaweedFS and Ceph say no more than the code.
  const isSilent =
    place.lock !== null && action === 's3:PutObject' && /^(UnknownError|Invalid ?Request)?$/i.test(message);
  if (/^Invalid(Request|BucketObjectLockConfiguration)$/.test(code) && (isSilent || /object ?lock/i.test(message))) {
    const hint = 'Switch Object Lock on in the bucket, or remove object_lock from the configuration of the archive.';
    return configurationError('QZ2440', `The bucket ${place.bucket} at ${host} cannot lock objects.`, hint, options);
  }
  const isElsewhere = isOther || status === 301 || code === 'AuthorizationHeaderMalformed';
  if (isElsewhere || code === 'NoRegion') {
    const where = region === null ? '' : ` It is in ${region}.`;
    const what =
      code === 'NoRegion' ? 'was named without a region' : `is not in the region ${place.region ?? 'that was taken'}`;
    const hint = `Set region${region === null ? ' to that of the bucket' : `=${region}`}.`;
    return configurationError('QZ2415', `The bucket of ${place.name} ${what}.${where}`, hint, options);
  }
  if (certificate.test(code)) {
    const hint =
      'Name the PEM file of the authority that signed it with ca_file, and the host by the name that the certificate carries.';
    return configurationError('QZ2418', `The certificate of ${host} is not trusted: ${message}.`, hint, options);
  }
  if (code === 'EPROTO') {
    const hint = 'Check the port, and whether the endpoint speaks https:// or http://.';
    return configurationError('QZ2420', `${host} and this program could not agree on TLS.`, hint, options);
  }
  return null;
}

/** Keys and what they allow. */
function permissionError(failure: S3Failure, { place, action, key, workedBefore }: FailedRequest, options: Options) {
  const { code, status } = failure;
  const file = place.credentialsFile;
  const from = file === null ? 'of the environment, the AWS profile or the instance role' : `in ${file}`;
  if (noKeys.test(code) && !workedBefore) {
    const hint =
      'Name a file with credentials_file, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the host a role.';
    return configurationError('QZ2416', `No access keys were found for ${place.name}.`, hint, options);
  }
  if (keysExpired.has(code) || noKeys.test(code) || (keysRefused.has(code) && workedBefore)) {
    const hint = 'Renew them; they are read anew with each try.';
    const sentence = `${place.name} no longer takes the access keys ${from} (${code}).`;
    return transientError('QZ4412', sentence, hint, options);
  }
  if (keysRefused.has(code)) {
    const what = code === 'SignatureDoesNotMatch' ? 'the secret key' : 'the access key';
    const hint = 'Check both keys, that they belong to this endpoint, and the region.';
    return configurationError('QZ2423', `${place.name} does not know ${what} ${from} (${code}).`, hint, options);
  }
  if (code === 'InvalidObjectState') {
    const sentence = `Object ${key} in ${place.name} was moved to a cold storage class.`;
    const hint = 'Restore it there first, and take the archive out of the lifecycle rule that moves objects.';
    return configurationError('QZ2424', sentence, hint, options);
  }
  if ((status !== 403 && status !== 401) || passing.has(code)) return null;
  const sentence = `${place.name} does not allow ${action} of ${key} (${code}).`;
  const hint =
    'ops/s3/ has the policies. Check bucket and prefix, too: of a bucket that is not there, or without s3:ListBucket of an object, services say the same.';
  if (workedBefore) return transientError('QZ4413', sentence, `It did before. ${hint}`, options);
  return configurationError('QZ2417', sentence, hint, options);
}

function passingError(failure: S3Failure, { place, action, key }: FailedRequest, options: Options) {
  const { code, status, message } = failure;
  const what = `${action} of ${key} in ${place.name}`;
  if (code === 'Deadline') {
    const hint = 'Check the network and the service; it is tried again.';
    return transientError('QZ4407', `${what} was not answered within its deadline.`, hint, options);
  }
  if (code === 'RequestTimeTooSkewed') {
    const sentence = `The clocks of this host and of ${place.name} differ by more than S3 allows (15 minutes).`;
    return transientError(
      'QZ4411',
      sentence,
      'Let both follow NTP; it is tried again by the service’s clock.',
      options,
    );
  }
  if (full.has(code) || status === 507) {
    return transientError('QZ4414', `${what} failed: the service is full.`, 'Make room or raise its quota.', options);
  }
  if (status === 0) {
    const sentence = unsent.has(code)
      ? `${place.name} could not be reached (${code}).`
      : `The connection broke during ${what} (${code === '' ? message : code}).`;
    const spelling = place.pathStyle ? '' : ' (path_style=true for services that know no bucket host names)';
    const hint = `Check the endpoint’s spelling${code === 'ENOTFOUND' ? spelling : ''}, name resolution, the network and firewalls; it is tried again.`;
    return transientError('QZ4405', sentence, hint, options);
  }
  const failing = status < 300 || (status >= 500 && status !== 501);
  if (failing || passing.has(code) || [408, 409, 429].includes(status)) {
    const hint = 'The service is busy or failing; it is tried again.';
    return transientError('QZ4406', `${what} failed: ${code} (${status}).`, hint, options);
  }
  return null;
}

function at(value: unknown, path: readonly string[]): unknown {
  let found = value;
  for (const name of path) {
    if (typeof found !== 'object' || found === null) return undefined;
    found = Reflect.get(found, name);
  }
  return found;
}

function textAt(value: unknown, ...path: string[]): string | null {
  const found = at(value, path);
  return typeof found === 'string' && found !== '' ? found : null;
}

function numberAt(value: unknown, ...path: string[]): number | null {
  const found = at(value, path);
  return typeof found === 'number' ? found : null;
}
