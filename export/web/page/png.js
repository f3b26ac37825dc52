// A PNG of RGBA pixels as they are: a canvas would multiply colours by alpha and lose them where it is low.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function chunk(type, content) {
  const bytes = new Uint8Array(content.length + 12), view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set(new TextEncoder().encode(type), 4);
  bytes.set(content, 8);
  const crc = bytes.subarray(4, -4).reduce((sum, byte) => TABLE[(sum ^ byte) & 255] ^ (sum >>> 8), -1);
  view.setUint32(bytes.length - 4, ~crc);
  return bytes;
}

export async function png({ data, width, height }) {
  const header = new Uint8Array(13), view = new DataView(header.buffer), row = 4 * width;
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, 6], 8); // bits, RGBA
  const rows = new Uint8Array((row + 1) * height); // each begins with its filter, none
  for (let y = 0; y < height; y++) rows.set(data.subarray(y * row, (y + 1) * row), y * (row + 1) + 1);
  const packed = new Blob([rows]).stream().pipeThrough(new CompressionStream('deflate'));
  const content = new Uint8Array(await new Response(packed).arrayBuffer());
  const signature = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10);
  return new Blob([signature, chunk('IHDR', header), chunk('IDAT', content), chunk('IEND', [])], { type: 'image/png' });
}
