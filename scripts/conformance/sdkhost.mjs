// A stdio host built on the official TypeScript SDK: it starts the command that
// it is given and uses everything that the server behind it has.
//
//   node sdkhost.mjs MODE COMMAND ARGS…
//
// MODE is legacy, auto or a revision to pin. It prints one line of JSON for each
// check, as the suite's own: {"id", "status", "errorMessage"}.
import assert from 'node:assert/strict';
import { Client } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

const [mode, command, ...args] = process.argv.slice(2);
const versionNegotiation = { mode: ['legacy', 'auto'].includes(mode) ? mode : { pin: mode } };
const text = result => result.content.filter(c => c.type === 'text').map(c => c.text).join('\n');

const seen = { updated: [], logs: [] };
const client = new Client(
  { name: 'sdk-host', version: '1' },
  {
    versionNegotiation,
    capabilities: { sampling: {}, elicitation: { form: {}, url: {} }, roots: { listChanged: true } },
  },
);
client.setRequestHandler('sampling/createMessage', async request => ({
  role: 'assistant',
  model: 'none',
  content: { type: 'text', text: `sampled: ${request.params.messages.at(-1).content.text ?? request.params.messages.at(-1).content[0].text}` },
}));
client.setRequestHandler('elicitation/create', async request =>
  request.params.mode === 'url' ? { action: 'accept' } : { action: 'accept', content: { name: 'Ada', check: true } },
);
client.setRequestHandler('roots/list', async () => ({ roots: [{ uri: 'file:///tmp/sdk-root', name: 'sdk-root' }] }));
client.setNotificationHandler('notifications/resources/updated', n => void seen.updated.push(n.params.uri));
client.setNotificationHandler('notifications/message', n => void seen.logs.push(n.params));

let failed = false;
const report = (id, error) => {
  failed ||= error !== undefined;
  const status = error === undefined ? 'SUCCESS' : 'FAILURE';
  process.stdout.write(JSON.stringify({ id, status, errorMessage: error && String(error.stack ?? error) }) + '\n');
};
const check = async (id, run) => {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error('no answer within 60 s')), 60_000);
  });
  try {
    await Promise.race([run(), late]);
    report(id);
  } catch (error) {
    report(id, error);
  } finally {
    clearTimeout(timer);
  }
};
const until = async condition => {
  for (const end = Date.now() + 50_000; !condition(); ) {
    assert.ok(Date.now() < end, 'it did not happen within 50 s');
    await new Promise(resolve => setTimeout(resolve, 20));
  }
};

const modern = () => client.getProtocolEra() === 'modern';

await check('connects', async () => {
  await client.connect(new StdioClientTransport({ command, args, env: process.env, stderr: 'inherit' }));
  if (mode !== 'auto') assert.equal(modern(), mode !== 'legacy', `era ${client.getProtocolEra()}`);
  assert.ok(client.getServerCapabilities().tools);
});
if (failed) process.exit(1);

// The server adds tools by what the host can do, a moment after the handshake.
let tools = [];
for (let tries = 0; tries < 100 && !tools.some(tool => tool.name === 'get-roots-list'); tries++) {
  if (tries > 0) await new Promise(resolve => setTimeout(resolve, 50));
  ({ tools } = await client.listTools(undefined, { cacheMode: 'bypass' }));
}
const called = new Set();
const call = async (name, args = {}, options) => {
  called.add(name);
  const result = await client.callTool({ name, arguments: args }, options);
  assert.ok(!result.isError, text(result));
  return result;
};
const has = name => tools.some(tool => tool.name === name);

await check('tools are listed', async () => assert.ok(tools.length >= 12, `${tools.length} tools`));
await check('echo', async () => assert.match(text(await call('echo', { message: 'grüße\u2028"<>&' })), /grüße\u2028"<>&/));
await check('sum', async () => assert.match(text(await call('get-sum', { a: 19, b: 23 })), /42/));
await check('structured content', async () => {
  const result = await call('get-structured-content', { location: 'Chicago' });
  assert.equal(typeof result.structuredContent.temperature, 'number');
});
await check('image', async () => {
  const image = (await call('get-tiny-image')).content.find(c => c.type === 'image');
  assert.equal(Buffer.from(image.data, 'base64').subarray(1, 4).toString(), 'PNG');
});
await check('annotations', async () => {
  const result = await call('get-annotated-message', { messageType: 'error', includeImage: true });
  assert.equal(result.content[0].annotations.priority, 1);
});
await check('resource links', async () => {
  const result = await call('get-resource-links', { count: 4 });
  assert.equal(result.content.filter(c => c.type === 'resource_link').length, 4);
});
await check('embedded resource', async () => {
  const result = await call('get-resource-reference', { resourceType: 'Text', resourceId: 1 });
  assert.ok(result.content.some(c => c.type === 'resource' && c.resource.text));
});
await check('environment', async () => assert.match(text(await call('get-env')), /PATH/));
await check('a resource made by a tool', async () => {
  const result = await call('gzip-file-as-resource', { name: 'a.gz', data: 'data:text/plain,hello', outputType: 'resource' });
  assert.ok(result.content.some(c => c.type === 'resource' && c.resource.blob));
});
await check('progress', async () => {
  const seen = [];
  await call('trigger-long-running-operation', { duration: 1, steps: 5 }, { onprogress: p => seen.push(p.progress) });
  // The SDK drops what arrives together with the result, the last step perhaps;
  // a call that was asked for input in between begins to report anew.
  const steps = [...new Set(seen)];
  assert.ok(steps.length >= 4, steps.join());
  assert.deepEqual(steps, [1, 2, 3, 4, 5].slice(0, steps.length));
});
await check('cancellation', async () => {
  const abort = new AbortController();
  const running = client.callTool({ name: 'trigger-long-running-operation', arguments: { duration: 300, steps: 3000 } }, { signal: abort.signal, onprogress: () => abort.abort('enough') });
  await assert.rejects(running);
});
await check('sampling', async () => assert.match(text(await call('trigger-sampling-request', { prompt: 'say', maxTokens: 10 })), /sampled: .*say/));
await check('elicitation by form', async () => assert.match(text(await call('trigger-elicitation-request')), /Ada/));
await check('elicitation by URL', async () => {
  const result = await call('trigger-url-elicitation', { url: 'https://example.com/consent', message: 'Please', elicitationId: 'e-1' });
  assert.match(text(result), /accept/i);
});
await check('roots', async () => assert.match(text(await call('get-roots-list')), /sdk-root/));
await check('every other tool is listed with a reason', async () => {
  // Those of the tasks extension answer by a task, which a plain call is not for.
  const left = tools.map(tool => tool.name).filter(name => !called.has(name) && !/^toggle-|-async$|^simulate-research/.test(name));
  assert.deepEqual(left, []);
});
await check('a tool that does not exist', async () => {
  const result = await client.callTool({ name: 'no-such-tool', arguments: {} }).catch(error => ({ isError: true, error }));
  assert.ok(result.isError);
});

await check('prompts', async () => {
  const { prompts } = await client.listPrompts();
  assert.ok(prompts.length >= 4);
  const simple = await client.getPrompt({ name: 'simple-prompt' });
  assert.equal(simple.messages.length, 1);
  const filled = await client.getPrompt({ name: 'args-prompt', arguments: { city: 'Zürich', state: 'ZH' } });
  assert.match(filled.messages[0].content.text, /Zürich/);
  const embedded = await client.getPrompt({ name: 'resource-prompt', arguments: { resourceType: 'Text', resourceId: '1' } });
  assert.ok(embedded.messages.some(m => m.content.type === 'resource'));
});
await check('completions', async () => {
  const ref = { type: 'ref/prompt', name: 'completable-prompt' };
  const department = await client.complete({ ref, argument: { name: 'department', value: 'E' } });
  assert.deepEqual(department.completion.values, ['Engineering']);
  const name = await client.complete({ ref, argument: { name: 'name', value: 'A' }, context: { arguments: { department: 'Engineering' } } });
  assert.deepEqual(name.completion.values, ['Alice']);
});
await check('resources', async () => {
  const { resources } = await client.listResources();
  assert.ok(resources.some(r => r.uri.startsWith('demo://resource/static/document/')));
  const { resourceTemplates } = await client.listResourceTemplates();
  assert.ok(resourceTemplates.length >= 2);
  const read = await client.readResource({ uri: 'demo://resource/static/document/features.md' });
  assert.match(read.contents[0].text, /Features/);
  const blob = await client.readResource({ uri: 'demo://resource/dynamic/blob/7' });
  assert.ok(blob.contents[0].blob);
});
await check('subscriptions', async () => {
  const uri = 'demo://resource/dynamic/text/1';
  const subscription = modern() ? await client.listen({ resourceSubscriptions: [uri] }) : await client.subscribeResource({ uri });
  await call('toggle-subscriber-updates');
  await until(() => seen.updated.includes(uri));
  await call('toggle-subscriber-updates');
  await (modern() ? subscription.close() : client.unsubscribeResource({ uri }));
});
if (has('toggle-simulated-logging')) {
  await check('logging', async () => {
    if (!modern()) await client.setLoggingLevel('debug');
    await call('toggle-simulated-logging');
    if (!modern()) await until(() => seen.logs.length > 0);
    await call('toggle-simulated-logging');
  });
}
await check('closes', () => client.close());
process.exit(failed ? 1 : 0);
