"""Tests of the comparison's arithmetic and configuration files."""

import json
import os
import tempfile
import time
import unittest

from harness.load import quantile
from harness.peers import PEERS, Envoy, HAProxy, Nginx, Outrigger, Work
from harness.process import Child, ChildFailed, run, runs
from harness.report import TARGETS, Results, table, targets
from harness.scenarios import SCENARIOS


class Arithmetic(unittest.TestCase):
    def test_a_quantile_is_the_smallest_value_that_so_many_do_not_exceed(self):
        self.assertEqual([quantile(list(range(1, 101)), percent) for percent in (1, 50, 99, 100)], [1, 50, 99, 100])
        self.assertEqual(quantile([7], 99), 7)
        self.assertEqual(quantile([], 50), 0)

    def test_ratios_are_taken_within_rounds_and_faulty_rounds_left_out(self):
        results = Results()
        for ours, theirs, fault in [(10, 20, ""), (30, 40, ""), (1, 1000, "1 of 9 requests failed")]:
            results.add("h1", "outrigger", {"cpu_us": ours, "fault": fault})
            results.add("h1", "envoy", {"cpu_us": theirs, "fault": ""})
        self.assertEqual(results.ratio("h1", "outrigger", "cpu_us", "h1", "envoy"), 0.625)
        self.assertEqual(results.median("h1", "outrigger", "cpu_us"), 20)
        text = table(results, "h1", "title", ["outrigger", "envoy"])
        self.assertIn("INVALID outrigger: 1 of 9 requests failed", text)

    def test_a_target_is_missed_above_its_limit_and_by_any_fault(self):
        def judged(mib, fault):
            results = Results()
            results.add("idle", "outrigger", {"idle_mib": 9.0})
            results.add("idle", "outrigger", {"idle_mib": mib, "fault": fault})
            return targets(results)[1]

        self.assertTrue(judged(9.5, ""))
        self.assertFalse(judged(11.5, ""))
        self.assertFalse(judged(9.5, "status 503 on an idle connection"))


class Configuration(unittest.TestCase):
    def written(self, peer, **work):
        with tempfile.TemporaryDirectory() as directory:
            work = {"downstream": "http1", "upstream": "http1", **work}
            peer("/nowhere").command(Work(backend="127.0.0.1:9", directory=directory, port=8, admin_port=7, **work))
            [name] = os.listdir(directory)
            with open(os.path.join(directory, name)) as file:
                return file.read()

    def test_every_route_and_host_is_written(self):
        envoy = json.loads(self.written(Envoy, prefixes=10))
        manager = envoy["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        self.assertEqual(len(manager["route_config"]["virtual_hosts"][0]["routes"]), 10)
        self.assertEqual(self.written(Outrigger, prefixes=10).count("prefix: /r/"), 10)
        self.assertEqual(self.written(Outrigger, hosts=10).count("hostnames:"), 10)
        self.assertEqual(self.written(Nginx, prefixes=10).count("location /r/"), 10)
        self.assertEqual(self.written(Nginx, hosts=10).count("server_name h"), 10)

    def test_one_worker_and_no_log_everywhere(self):
        outrigger = self.written(Outrigger)
        self.assertIn("workers: 1", outrigger)
        self.assertIn("accessLog: off", outrigger)
        self.assertNotIn("access_log\"", self.written(Envoy))
        self.assertIn("worker_processes 1;", self.written(Nginx))
        self.assertIn("access_log off;", self.written(Nginx))
        self.assertIn("nbthread 1", self.written(HAProxy))
        self.assertNotIn("log ", self.written(HAProxy))


    def test_both_sides_of_a_mesh_demand_certificates_and_name_whom_they_expect(self):
        for peer, words in {
            Outrigger: ["tls: { mode: strict }", 'peerIdentities: ["spiffe://compare.test/ns/bench/sa/proxy"]'],
            Envoy: ['"require_client_certificate": true', '"exact": "spiffe://compare.test/ns/bench/sa/proxy"'],
            Nginx: ["ssl_verify_client on;", "grpc_ssl_verify on;"],
            HAProxy: ["verify required ssl-min-ver TLSv1.3 alpn h2,http/1.1", "verifyhost compare.test"],
        }.items():
            far = self.written(peer, downstream="http2", pki="/pki", tls_downstream=True, grpc=True)
            near = self.written(peer, upstream="http2", pki="/pki", tls_upstream="proxy", grpc=True)
            self.assertIn(words[0], far, peer.name)
            self.assertNotIn(words[0], near, peer.name)
            self.assertIn(words[1], near, peer.name)
            self.assertNotIn(words[1], far, peer.name)
            self.assertIn("/pki/ca.pem", far, peer.name)
            self.assertIn("/pki/ca.pem", near, peer.name)

    def test_http3_is_served_beside_tcp_and_bytes_go_through_as_they_are(self):
        over_quic = dict(downstream="http3", pki="/pki", tls_downstream=True)
        self.assertIn("http3: true", self.written(Outrigger, **over_quic))
        tcp, udp = json.loads(self.written(Envoy, **over_quic))["static_resources"]["listeners"]
        self.assertEqual(tcp["address"]["socket_address"]["port_value"], udp["address"]["socket_address"]["port_value"])
        tls = udp["filter_chains"][0]["transport_socket"]["typed_config"]["downstream_tls_context"]
        self.assertTrue(tls["require_client_certificate"])
        self.assertEqual(tls["common_tls_context"]["alpn_protocols"], ["h3"])
        bytes_only = dict(downstream="tcp", upstream="tcp")
        self.assertIn("protocol: tcp, tcp: { backendRefs", self.written(Outrigger, **bytes_only))
        self.assertIn("tcp_proxy", self.written(Envoy, **bytes_only))
        haproxy = self.written(HAProxy, **bytes_only)
        self.assertIn("mode tcp", haproxy)
        self.assertNotIn("http", haproxy.replace("haproxy", ""))

    def test_every_target_is_of_a_scenario_that_is_measured(self):
        known = {scenario.name for group in SCENARIOS.values() for scenario in group}
        self.assertLessEqual({scenario for scenario, *_ in TARGETS}, known)

    def test_every_peer_knows_the_kinds_that_it_is_given(self):
        kinds = {scenario.kind for group in SCENARIOS.values() for scenario in group}
        for peer in PEERS.values():
            self.assertLessEqual(peer.kinds, kinds, peer.name)


class Processes(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        self.core = min(os.sched_getaffinity(0))

    def test_a_child_is_measured_with_its_own_children_and_stopped_with_them(self):
        with Child("family", ["sh", "-c", "sleep 60 & wait"], self.core, self.directory) as child:
            while len(child.processes()) < 2:
                child.check_alive()
            family = child.processes()
            self.assertGreater(child.resident_kib(), 0)
        for pid in family:
            self.assertFalse(runs(pid), f"process {pid} still runs")

    def test_cpu_time_is_that_of_all_processes_of_a_child(self):
        with Child("busy", ["sh", "-c", "(while :; do :; done) & wait"], self.core, self.directory) as child:
            deadline = time.monotonic() + 10
            while child.cpu_seconds() < 0.02:
                child.check_alive()
                self.assertLess(time.monotonic(), deadline, "it is busy and is not counted")
            began, before = time.monotonic(), child.cpu_seconds()
            while child.cpu_seconds() == before:
                self.assertLess(time.monotonic(), deadline, "it is busy and is not counted")
            self.assertLess(child.cpu_seconds() - before, time.monotonic() - began + 0.005)

    def test_a_failure_shows_what_was_printed(self):
        with self.assertRaisesRegex(ChildFailed, "status 3:\nno luck"):
            run(["sh", "-c", "echo no luck; exit 3"], self.core, timeout=10)


if __name__ == "__main__":
    unittest.main()
