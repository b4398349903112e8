/**
 * Named points at which a test may have the process die as by kill -9: `QZ_CRASH_AT=name` (or `name#3` for the third time
 * it is passed). Without that variable a point costs one comparison.
 */
export const crashPoints = [
  'local-log:before-write',
  'local-log:after-write',
  'local-log:after-new-file',
  'local-log:before-delete',
  'kafka-log:before-send',
  'kafka-log:after-send',
  'agent:received',
  'agent:accepted',
  'shipper:before-put',
  'shipper:after-put',
  'shipper:after-tip',
  'shipper:after-index',
  'compaction:put',
  'compaction:floor',
  'compaction:gathered',
  'compaction:deleted',
  'prune:begin',
  'prune:condemned',
  'prune:deleted',
  'prune:deleted-all',
  'repair:before-put',
  'repair:after-put',
  'repair:before-floor',
  'directory:after-temp',
  'directory:after-link',
  's3:before-put',
  's3:after-put',
  's3:after-part',
  's3:after-upload',
  'snapshot:after-clone',
  'snapshot:after-pack',
  'snapshot:before-manifest',
  'snapshot:before-complete',
  'restore:before-clear',
  'restore:dump-named',
  'restore:handed-over',
  'restore-influxdb:during-load',
  'restore-influxdb:after-replay',
  'standby:before-clear',
  'switchover:closed',
  'promotion:asked',
  'promotion:claimed',
  'promotion:before-put',
  'promotion:after-put',
  'promotion:won',
  'promotion:drained',
  'promotion:detached',
  'promotion:attached',
  'promotion:writable',
  'promotion:announced',
] as const;
export type CrashPoint = (typeof crashPoints)[number];

const [target, nth] = (process.env.QZ_CRASH_AT ?? '').split('#');
let left = Number(nth ?? 1);

export function crashPoint(name: CrashPoint): void {
  if (target === undefined || target !== name) return;
  left -= 1;
  if (left === 0) process.kill(process.pid, 'SIGKILL');
}
