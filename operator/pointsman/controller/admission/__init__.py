"""The admission webhook: reviews of Services and ProxyConfigs, over TLS with certificates of its own or another's.

The rules (`review`, `services`, `proxyconfigs`) and the certificates' life (`certificates`, `bundle`) are pure.
`server`, `tls`, `secret` and `fresh` do the I/O; `serve` puts them together.
"""
