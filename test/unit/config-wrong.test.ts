import { describe, expect, test } from '@jest/globals';
import { parseConfig } from '../../core/config/config.ts';
import { edited, file, good, problem } from '../made/config.ts';

describe('a wrong configuration is answered with one sentence, its place and a hint', () => {
  test.each([
    [
      'an unknown key',
      edited('host: db1', 'hots: db1'),
      'QZ2013',
      /`source\.mysql\.hots` \(line 3, column 12 of/,
      /Did you mean host\?/,
    ],
    [
      'an unknown key at the top',
      `${good}htpp: {}\n`,
      'QZ2013',
      /`htpp` \(line 10, column 1/,
      /Did you mean http\?.*source, log/,
    ],
    ['a key nobody meant', `${good}zzzzzzz: {}\n`, 'QZ2013', /zzzzzzz/, /^Known at the top/],
    [
      'a missing key',
      edited('  name: agama\n', ''),
      'QZ2014',
      /`source\.name` is missing \(line 2, column 3/,
      /Give a name/,
    ],
    ['a missing section', edited(/archives:\n.*\n/, ''), 'QZ2014', /`archives` is missing/, /mapping/],
    ['nothing to protect', edited(/ {2}mysql:.*\n/, ''), 'QZ2019', /`source\.mysql` is missing/, /MySQL/],
    [
      'a number instead of text',
      edited('name: agama', 'name: 5'),
      'QZ2015',
      /`source\.name` must be a name.*\(line 2, column 9/,
      /It is a number now/,
    ],
    [
      'a list instead of a mapping',
      edited(/ {2}onsite:.*/, '  - x'),
      'QZ2015',
      /`archives` must be a mapping/,
      /It is a list now/,
    ],
    [
      'text instead of a port',
      edited('host: db1', 'port: "3306"'),
      'QZ2015',
      /`source\.mysql\.port` must be a port number/,
      /another text/,
    ],
    ['a port too high', edited('host: db1', 'port: 65536'), 'QZ2015', /port number from 1 to 65535/, /a number/],
    [
      'dumps of a standby',
      edited('snapshots:', 'snapshots:\n  engine: logical\n  from: standby'),
      'QZ2019',
      /`snapshots\.from: standby` takes clones only/,
      /from: source/,
    ],
    [
      'a duration without unit',
      edited('snapshots:', 'snapshots:\n  every: 21600'),
      'QZ2015',
      /`snapshots\.every` must be a duration with its unit/,
      /a number/,
    ],
    [
      'a duration too short',
      edited('snapshots:', 'snapshots:\n  every: 59s'),
      'QZ2015',
      /at least 60s/,
      /another text/,
    ],
    [
      'a size that is none',
      edited('/var/lib/qazyna/log }', '/var/lib/qazyna/log, max_size: 20G }'),
      'QZ2015',
      /`log\.local\.max_size` must be a size/,
      /another text/,
    ],
    [
      'a relative path',
      edited('/var/lib/qazyna/log', 'log'),
      'QZ2015',
      /`log\.local\.dir` must be an absolute path/,
      /another text/,
    ],
    [
      'a URL of nothing',
      edited('file:///srv/qazyna', 'file://host/srv'),
      'QZ2015',
      /`archives\.onsite\.url` must be a URL such as file:/,
      /another text/,
    ],
    [
      'an archive name with a slash',
      edited('onsite:', 'a/b:'),
      'QZ2015',
      /`archives\.a\/b` must be an archive name/,
      /./,
    ],
    [
      'a word that is not one of those known',
      edited('snapshots:', 'snapshots:\n  engine: cloned'),
      'QZ2015',
      /must be one of clone, logical/,
      /another text/,
    ],
    [
      'a source name that is a path',
      edited('name: agama', 'name: ../agama'),
      'QZ2015',
      /`source\.name`/,
      /another text/,
    ],
    [
      'a listen address without port',
      `${good}http: { listen: 127.0.0.1 }\n`,
      'QZ2015',
      /`http\.listen` must be an address and port/,
      /another text/,
    ],
    ['an empty file', '', 'QZ2015', /The configuration must be a mapping/, /It is empty now/],
    ['no YAML', 'a: [', 'QZ2012', /is no valid YAML at line 1, column 5/, /config example/],
    ['a key written twice', `${good}log: {}\n`, 'QZ2012', /line 10, column 1: Map keys must be unique/, /./],
    [
      'a bomb of aliases',
      `a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [${'*a,'.repeat(99)}*a]\nc: [${'*b,'.repeat(99)}*b]\n`,
      'QZ2012',
      /no valid YAML/,
      /aliases/,
    ],
    ['a file of 2 MiB', '#'.repeat(2 ** 21), 'QZ2012', /longer than 1 MiB/, /./],
    [
      'clone without a scratch folder',
      edited('scratch_dir: /var/lib/mysql-clone', 'engine: clone'),
      'QZ2019',
      /`snapshots\.scratch_dir` is missing/,
      /engine: logical/,
    ],
    [
      'a scratch folder inside an archive',
      edited('/var/lib/mysql-clone', '/srv/qazyna/x'),
      'QZ2019',
      /`snapshots\.scratch_dir` and `archives\.onsite\.url`/,
      /folder of its own/,
    ],
    [
      'two archives in one folder',
      edited('archives:', 'archives:\n  other: { url: "file:///srv/qazyna/" }'),
      'QZ2019',
      /same folder/,
      /./,
    ],
    [
      'a log around an archive',
      edited('/var/lib/qazyna/log', '/srv'),
      'QZ2019',
      /`archives\.onsite\.url` and `log\.local\.dir`/,
      /./,
    ],
    [
      'a bucket name that cannot be',
      edited('file:///srv/qazyna', 's3://Bucket/prod'),
      'QZ2015',
      /`archives\.onsite\.url` must be a URL such as/,
      /another text/,
    ],
    [
      'credentials in an endpoint',
      edited('file:///srv/qazyna"', 's3://bucket/prod", endpoint: "https://key:secret@s3.example.org"'),
      'QZ2015',
      /`archives\.onsite\.endpoint` must be a URL such as .*without path and credentials/,
      /another text/,
    ],
    [
      'a key of S3 at a folder',
      edited('file:///srv/qazyna"', 'file:///srv/qazyna", region: eu-north-1'),
      'QZ2019',
      /`archives\.onsite\.region` is for s3:\/\/ archives, and onsite is a folder/,
      /Remove it/,
    ],
    ['no log', edited(/local: .*/, '{}'), 'QZ2014', /`log\.local` or `log\.kafka` is missing/, /files on this host/],
    [
      'two logs',
      edited(/log:\n/, 'log:\n  kafka: { brokers: ["k:9092"], topic: t }\n'),
      'QZ2019',
      /`log` has both local and kafka/,
      /Keep one/,
    ],
    [
      'a broker without a port',
      edited(/local: .*/, 'kafka: { brokers: [k1], topic: t }'),
      'QZ2015',
      /`log\.kafka\.brokers\.0` must be a host and port such as/,
      /another text/,
    ],
    ['no archive', edited(/ {2}onsite:.*/, '  {}'), 'QZ2019', /no archive/, /at least one/],
    ['an archive called log', edited('onsite:', 'log:'), 'QZ2019', /cannot be called log/, /another name/],
    [
      'RPO 0 by a local log',
      edited('name: agama', 'name: agama\n  acknowledge_after: log'),
      'QZ2019',
      /dies with this host/,
      /failure_domain/,
    ],
    [
      'RPO 0 by a folder of this host',
      edited('name: agama', 'name: agama\n  acknowledge_after: onsite'),
      'QZ2019',
      /on this very host/,
      /other_host/,
    ],
    [
      'RPO 0 by nothing',
      edited('name: agama', 'name: agama\n  acknowledge_after: offsite'),
      'QZ2019',
      /no archive of this file/,
      /onsite/,
    ],
    [
      'RPO 0 by an archive although there is a topic',
      edited('name: agama', 'name: agama\n  acknowledge_after: onsite').replace(
        /local: .*/,
        'kafka: { brokers: ["k:9092"], topic: t }',
      ),
      'QZ2019',
      /the topic is where commits wait/,
      /Set log/,
    ],
    [
      'a pair that would meet on one of its hosts',
      `${good}standby: { dir: /var/lib/qazyna/standby }\n`,
      'QZ2019',
      /meets in the archive onsite, a folder on this very host/,
      /other_host/,
    ],
  ])('%s', (_, text, code, sentence, hint) => {
    const error = problem(text);
    expect([error.code, error.message, error.hint]).toEqual([
      code,
      expect.stringMatching(sentence),
      expect.stringMatching(hint),
    ]);
    expect([error.kind, error.exitCode]).toEqual(['configuration', 2]);
    expect(error.message).toContain(file);
    expect(error.message.split('\n')).toHaveLength(1);
  });

  test('a directory name that only begins like another is another folder', () => {
    expect(parseConfig(file, edited('/var/lib/mysql-clone', '/srv/qazyna2')).snapshots.scratchDir).toBe('/srv/qazyna2');
  });

  test('every complaint is kept, the first one speaks', () => {
    const error = problem(edited('host: db1', 'port: x, hots: y'));
    expect(error.hint).toContain('(1 more in this file');
    expect(error.details.problems).toHaveLength(2);
  });

  test('a value is never repeated: it may be a secret in the wrong place', () => {
    const error = problem(
      edited('host: db1', 'host: "hunter2 hunter2", port: "hunter2", password: hunter2, password_file: hunter2'),
    );
    expect(JSON.stringify([error.message, error.hint, error.details])).not.toContain('hunter2');
  });
});
