"""What TensorBoard shows of a folder of logs, by each of its ways of reading it."""

import time
from argparse import Namespace

import tensorboard_data_server
from tensorboard.backend.event_processing.data_ingester import LocalDataIngester
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.context import RequestContext
from tensorboard.data.server_ingester import ServerBinary, SubprocessServerDataIngester
from tensorboard.util.grpc_util import ChannelCredsType


def shown(logs):
    """The (step, value) points by run and tag, for the server that `tensorboard` starts and its Python code's two ways.

    A server is started for the call and ends with it.
    """
    flags = Namespace(
        logdir=str(logs), samples_per_plugin={'scalars': 0}, purge_orphaned_data=True, max_reload_threads=1,
        reload_multifile=False, detect_file_replacement=None, reload_interval=0, reload_task='blocking',
    )  # fmt: skip
    binary = ServerBinary(tensorboard_data_server.server_binary(), tensorboard_data_server.__version__)
    server = SubprocessServerDataIngester(
        binary, str(logs), reload_interval=0, channel_creds_type=ChannelCredsType.LOCAL,
        samples_per_plugin=flags.samples_per_plugin,
    )  # fmt: skip
    code = LocalDataIngester(flags)
    code.start()
    server.start()
    try:
        return {
            'server': provided(server.data_provider),
            'code': provided(code.data_provider),
            'accumulator': {path.name: accumulated(path) for path in logs.iterdir()},
        }
    finally:
        server._stdin_handle.close()


def provided(provider):
    """What a data provider gives once it has read all: the server reads while it answers."""
    found: list[dict] = []
    while len(found) < 4 or not found[-1] or found[-1] != found[-4]:
        runs = provider.read_scalars(RequestContext(), experiment_id='', plugin_name='scalars', downsample=10_000)
        found.append({
            run: {tag: [(point.step, float(point.value)) for point in points] for tag, points in tags.items()}
            for run, tags in runs.items()
        })  # fmt: skip
        time.sleep(0.05)
    return found[-1]


def accumulated(folder):
    events = EventAccumulator(str(folder), size_guidance={'scalars': 0}).Reload()
    return {tag: [(p.step, p.value) for p in events.Scalars(tag)] for tag in events.Tags()['scalars']}
