import { describeKilled } from './killed-daemon.ts';

describeKilled('a topic, a folder and a bucket', { kafka: 1, s3: true }, [
  'kafka-log:before-send#30',
  'kafka-log:after-send#30',
  's3:before-put#4',
  's3:after-put#4',
]);
