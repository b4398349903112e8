import { describeKilled } from './killed-daemon.ts';

describeKilled('a local log, a folder and a bucket', { s3: true }, [
  'local-log:after-new-file', // the first one: only a new log makes a file so soon
  'local-log:before-write#30',
  'local-log:after-write#30',
  's3:before-put#4',
  's3:after-put#4',
]);
