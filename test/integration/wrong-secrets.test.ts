/**
 * Row 37: wrong passwords and certificates, by the programs themselves. One sentence with a code and a hint, the exit code for
 * configuration, and no secret, right or wrong, in what they print or keep.
 */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { selfSignedCertificate } from '../../core/stream/certificate.ts';
import { KafkaLab, type Secured } from '../lab/kafka.ts';
import { Lab } from '../lab/lab.ts';
import { RunningDaemon, verb } from '../lab/running.ts';
import { writeS3Credentials } from '../lab/s3.ts';

const wrong = 'never-the-secret-5519';

let lab: Lab;
let kafka: KafkaLab;
let secured: Secured;
let dir: string;
/** As the lab wrote it, with the topic of the secured broker in place of local files. */
let rightConfig: string;
let secrets: string[];
let cases = 0;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'qazyna-secrets-'));
  [lab, kafka] = await Promise.all([Lab.start({ s3: true }), KafkaLab.start({ brokers: 1, secure: true })]);
  if (kafka.secured === null || lab.s3 === null) throw new Error('the lab is open to everybody');
  secured = kafka.secured;
  secrets = [wrong, secured.password, lab.mysql.qazyna.password, lab.s3.root.secret];
  await writeFile(join(dir, 'kafka-ca.pem'), secured.ca);
  await writeFile(join(dir, 'kafka.password'), secured.password, { mode: 0o600 });
  await writeFile(join(dir, 'wrong.password'), wrong, { mode: 0o600 });
  await writeS3Credentials(join(dir, 'wrong.credentials'), { user: lab.s3.root.user, secret: wrong });
  await writeFile(join(dir, 'other-ca.pem'), selfSignedCertificate('another authority', 1).certPem);
  const topic = `brokers: ${JSON.stringify(kafka.bootstrap)}, topic: qazyna.secrets, replication_factor: 1, state_dir: STATE`;
  const login = `sasl: { user: ${secured.user}, password_file: ${dir}/kafka.password }`;
  rightConfig = (await readFile(lab.configFile, 'utf8')).replace(
    /local: \{[^}]*\}/,
    `kafka: { ${topic}, tls: { ca_file: ${dir}/kafka-ca.pem }, ${login} }`,
  );
}, 180_000);

afterAll(async () => {
  await kafka?.stop();
  await lab?.stop();
  await rm(dir, { recursive: true, force: true });
}, 120_000);

/** Its own state folder each time, so that what is kept there is what this program kept. */
async function configured(change: readonly [RegExp, string] | null): Promise<{ configFile: string; stateDir: string }> {
  cases += 1;
  const stateDir = join(dir, `state-${cases}`);
  await mkdir(stateDir);
  const changed = change === null ? rightConfig : rightConfig.replace(change[0], change[1].replace('DIR', dir));
  expect(changed === rightConfig).toBe(change === null);
  const configFile = join(dir, `qazyna-${cases}.yaml`);
  await writeFile(configFile, changed.replace('STATE', stateDir));
  return { configFile, stateDir };
}

async function expectNoSecrets(said: string, stateDir: string): Promise<void> {
  const kept: string[] = [said];
  for (const entry of await readdir(stateDir, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) kept.push(await readFile(join(entry.parentPath, entry.name), 'latin1'));
  }
  for (const secret of secrets) expect(kept.filter((text) => text.includes(secret))).toEqual([]);
}

describe('secrets', () => {
  test('the right ones: agent and shipper work, and neither prints nor keeps one', async () => {
    const { configFile, stateDir } = await configured(null);
    const agent = new RunningDaemon({ ...lab, configFile } as Lab, {}, ['agent']);
    const shippers = ['onsite', 'offsite'].map(
      (name) =>
        new RunningDaemon({ ...lab, configFile } as Lab, {}, ['shipper', '--archive', name, '--listen', '127.0.0.1:0']),
    );
    const daemons = [agent, ...shippers];
    try {
      await agent.untilProtected();
      const { stdout, stderr } = await verb(['status', '--config', configFile, '--json']);
      for (const daemon of daemons) expect(await daemon.end('SIGTERM')).toBe(0);
      expect((await readdir(stateDir)).length).toBeGreaterThan(0);
      await expectNoSecrets(daemons.map((daemon) => daemon.stderr).join('') + stdout + stderr, stateDir);
    } finally {
      for (const daemon of daemons) await daemon.end('SIGKILL');
    }
  }, 120_000);

  const shipper = 'shipper --archive offsite --listen 127.0.0.1:0';
  const passwordOfMysql = /password_file: \S+\/secrets\/qazyna/;
  const passwordOfKafka = /password_file: \S+kafka\.password/;
  const authorityOfKafka = /ca_file: \S+kafka-ca\.pem/;
  const keysOfS3 = /credentials_file: [^ }]+/;
  const daemons: [string, string, RegExp, string, string][] = [
    ["MySQL's password", 'agent', passwordOfMysql, 'password_file: DIR/wrong.password', 'QZ2110'],
    ["MySQL's authority", 'agent', /mode: required/, 'mode: verify_ca, ca_file: DIR/other-ca.pem', 'QZ2114'],
    ["Kafka's password", 'agent', passwordOfKafka, 'password_file: DIR/wrong.password', 'QZ2312'],
    ["Kafka's password", shipper, passwordOfKafka, 'password_file: DIR/wrong.password', 'QZ2312'],
    ["Kafka's authority", 'agent', authorityOfKafka, 'ca_file: DIR/other-ca.pem', 'QZ2313'],
    ["Kafka's authority", shipper, authorityOfKafka, 'ca_file: DIR/other-ca.pem', 'QZ2313'],
    ["S3's secret", shipper, keysOfS3, 'credentials_file: DIR/wrong.credentials', 'QZ2423'],
  ];
  test.each(daemons)('%s is wrong: `qazyna %s` ends with one sentence', async (_, args, was, is, code) => {
    const { configFile, stateDir } = await configured([was, is]);
    const { code: exitCode, stdout, stderr } = await verb([...args.split(' '), '--config', configFile]);
    const [said, hint, ...more] = stderr
      .slice(stderr.search(/^qazyna: QZ/m))
      .trimEnd()
      .split('\n');
    expect({ exitCode, said, hint, more }).toEqual({
      exitCode: 2,
      said: expect.stringMatching(`^qazyna: ${code}: .*\\.$`),
      hint: expect.stringMatching(/^hint: ./),
      more: [],
    });
    await expectNoSecrets(stdout + stderr, stateDir);
  });

  const askers: [string, string, RegExp, string, string][] = [
    ["MySQL's password", 'doctor', passwordOfMysql, 'password_file: DIR/wrong.password', 'QZ2110'],
    ["S3's secret", 'windows', keysOfS3, 'credentials_file: DIR/wrong.credentials', 'QZ2423'],
  ];
  test.each(askers)('%s is wrong: `qazyna %s` shows it among what it found', async (_, args, was, is, code) => {
    const { configFile, stateDir } = await configured([was, is]);
    const { code: exitCode, stdout, stderr } = await verb([args, '--config', configFile]);
    expect({ exitCode, stdout }).toEqual({ exitCode: 5, stdout: expect.stringContaining(code) });
    await expectNoSecrets(stdout + stderr, stateDir);
  });
});
