"""MoviePy's film of a picture that the camera goes into, as its users write it. `drive_moviepy.py PICTURE SECONDS FILM`."""

import sys

from moviepy import CompositeVideoClip, ImageClip

WIDTH, HEIGHT, FPS, ZOOM = 1280, 720, 24, 1.16
ENCODING = ["-crf", "20", "-bf", "0", "-g", "48", "-pix_fmt", "yuv420p"]


def main() -> None:
    picture, seconds, film = sys.argv[1], float(sys.argv[2]), sys.argv[3]

    def size(at: float) -> float:
        along = min(1.0, (at + 0.5 / FPS) / seconds)
        return WIDTH / 1920 * ZOOM ** (along * along * (3 - 2 * along))

    clip = ImageClip(picture, duration=seconds).resized(size).with_position("center")
    whole = CompositeVideoClip([clip], size=(WIDTH, HEIGHT))
    whole.write_videofile(
        film, fps=FPS, codec="libx264", preset="veryfast", audio=False, ffmpeg_params=ENCODING, logger=None
    )


main()
