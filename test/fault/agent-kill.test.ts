import { describeKilled } from './killed-daemon.ts';

describeKilled('a local log and two folders', {}, [
  'local-log:after-new-file', // the first one: only a new log makes a file so soon
  'local-log:before-write#30',
  'local-log:after-write#30',
  'local-log:after-sync#30',
]);
