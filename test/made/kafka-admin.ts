/** What a keeper of the brokers does to a topic behind our back. Beside core/log/kafka/ the only file that knows kafkajs. */
import kafkajs, { type Admin } from 'kafkajs';

export async function withAdmin<T>(brokers: readonly string[], work: (admin: Admin) => Promise<T>): Promise<T> {
  const kafka = new kafkajs.Kafka({ brokers: [...brokers], logLevel: kafkajs.logLevel.NOTHING });
  const admin = kafka.admin();
  await admin.connect();
  return await work(admin).finally(() => admin.disconnect());
}

export async function deleteTopic(brokers: readonly string[], topic: string): Promise<void> {
  await withAdmin(brokers, (admin) => admin.deleteTopics({ topics: [topic] }));
}

/** With the brokers' own settings but for those given. */
export async function createTopic(
  brokers: readonly string[],
  topic: string,
  settings: Record<string, string> = {},
  { partitions = 1, replicas = 1 } = {},
): Promise<void> {
  const configEntries = Object.entries(settings).map(([name, value]) => ({ name, value }));
  const wanted = { topic, numPartitions: partitions, replicationFactor: replicas, configEntries };
  // Its own waiting gives up at a broker that has not heard of the topic yet; who opens a log there waits by himself.
  await withAdmin(brokers, (admin) => admin.createTopics({ waitForLeaders: false, topics: [wanted] }));
}

export async function alterTopic(
  brokers: readonly string[],
  topic: string,
  settings: Record<string, string>,
): Promise<void> {
  const configEntries = Object.entries(settings).map(([name, value]) => ({ name, value }));
  const type = kafkajs.ConfigResourceTypes.TOPIC;
  const resources = [{ type, name: topic, configEntries }];
  await withAdmin(brokers, (admin) => admin.alterConfigs({ validateOnly: false, resources }));
}

/** As the retention would: everything before `offset`. */
export async function deleteRecords(brokers: readonly string[], topic: string, offset: number): Promise<void> {
  const partitions = [{ partition: 0, offset: String(offset) }];
  await withAdmin(brokers, async (admin) => {
    // Has it learn who leads.
    await admin.fetchTopicOffsets(topic);
    await admin.deleteTopicRecords({ topic, partitions });
  });
}

/** Node ids of the leader and of the replicas in sync. */
export async function partitionOf(
  brokers: readonly string[],
  topic: string,
): Promise<{ leader: number; inSync: number }> {
  const { topics } = await withAdmin(brokers, (admin) => admin.fetchTopicMetadata({ topics: [topic] }));
  const [partition] = topics[0]?.partitions ?? [];
  return { leader: partition?.leader ?? -1, inSync: partition?.isr.length ?? 0 };
}

/** What no qazyna wrote. */
export async function writeForeign(brokers: readonly string[], topic: string, value: string): Promise<void> {
  const kafka = new kafkajs.Kafka({ brokers: [...brokers], logLevel: kafkajs.logLevel.NOTHING });
  const producer = kafka.producer({ createPartitioner: () => () => 0 });
  await producer.connect();
  await producer.send({ topic, messages: [{ value }] }).finally(() => producer.disconnect());
}

export type TopicRight = 'Create' | 'Describe' | 'DescribeConfigs' | 'Read' | 'Write';

/** Takes every right from everybody, then gives `principal` these on one topic. */
export async function grantOnly(
  broker: string,
  principal: string,
  topic: string,
  rights: readonly TopicRight[],
): Promise<void> {
  const { AclOperationTypes, AclPermissionTypes, AclResourceTypes, ResourcePatternTypes } = kafkajs;
  const any = {
    resourceType: AclResourceTypes.ANY,
    resourcePatternType: ResourcePatternTypes.ANY,
    operation: AclOperationTypes.ANY,
    permissionType: AclPermissionTypes.ANY,
  };
  const operations = {
    Create: AclOperationTypes.CREATE,
    Describe: AclOperationTypes.DESCRIBE,
    DescribeConfigs: AclOperationTypes.DESCRIBE_CONFIGS,
    Read: AclOperationTypes.READ,
    Write: AclOperationTypes.WRITE,
  };
  const acl = rights.map((right) => ({
    resourceType: AclResourceTypes.TOPIC,
    resourceName: topic,
    resourcePatternType: ResourcePatternTypes.LITERAL,
    principal,
    host: '*',
    operation: operations[right],
    permissionType: AclPermissionTypes.ALLOW,
  }));
  await withAdmin([broker], async (admin) => {
    await admin.deleteAcls({ filters: [any] });
    if (acl.length > 0) await admin.createAcls({ acl });
  });
}
